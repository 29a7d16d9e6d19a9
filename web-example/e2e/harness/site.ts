/** The example as somebody runs it: what `npm run build` made, started by Node, before a bridge of its own. */
import { type ChildProcess } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";

import { Bridge, JWT_SECRET, SOON_SECONDS } from "./bridge";
import { sharedVhost } from "./rabbitmq";
import { end, eventually, freePort, newFolder, REPOSITORY, start } from "./run";

const SERVER = path.join(REPOSITORY, "web-example/.next/standalone/server.js");

export class Site {
  private constructor(
    readonly bridge: Bridge,
    readonly port: number,
    private readonly process: ChildProcess,
    private readonly output: string,
  ) {}

  static async start(): Promise<Site> {
    if (!existsSync(SERVER)) throw new Error(`${SERVER} is missing: \`npm run build\` makes it`);
    const port = await freePort();
    const bridge = await Bridge.serve(sharedVhost(), {
      AUTH_MODE: "jwt",
      AUTH_JWT_SECRET: JWT_SECRET,
      AUTH_COOKIE: "board_token",
      HTTP_CORS_ORIGINS: `http://127.0.0.1:${port}`,
    });
    const folder = newFolder("site");
    const output = path.join(folder, "output");
    const environment = { NODE_ENV: "production", HOSTNAME: "127.0.0.1", PORT: String(port), BRIDGE_URL: bridge.origin, AUTH_JWT_SECRET: JWT_SECRET };
    const process = start("node", [SERVER], environment, { folder, output });
    const site = new Site(bridge, port, process, output);
    const answers = async () => ((await fetch(`${site.origin}/sign-in`).catch(() => undefined))?.ok ? true : undefined);
    await eventually("the example answers", SOON_SECONDS, answers, () => site.outputTail());
    return site;
  }

  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** The last lines that the example and its bridge wrote. */
  outputTail(): string {
    return `${readFileSync(this.output, "utf8").split("\n").slice(-20).join("\n")}\n${this.bridge.outputTail()}`;
  }

  async end(): Promise<void> {
    await end(this.process, "SIGKILL");
    await this.bridge.kill();
  }
}
