/** The bridge as its users run it: the binary, as a process, configured by its environment. */
import { type ChildProcess } from "node:child_process";
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";

import { end, eventually, freePort, newFolder, REPOSITORY, start } from "./run";

const PROGRAM = path.resolve(process.env["BRIDGE_PROGRAM"] ?? path.join(REPOSITORY, "target/debug/sse-bridge"));

/** Past any delay of a busy machine. */
export const SOON_SECONDS = 30;

/** What signs the tokens of tests. */
export const JWT_SECRET = "a-secret-of-browser-tests-with-more-than-32-bytes";

/** What the tests set unless they say otherwise: browsers come back quickly, and quiet streams are soon told where they are. */
const DEFAULTS = { AUTH_MODE: "none", DRAIN_SECONDS: "2", SSE_RETRY_MS: "100", LOG_FORMAT: "json" };

export class Bridge {
  private process: ChildProcess | undefined;
  private readonly folder = newFolder("bridge");

  private constructor(
    private readonly command: "serve" | "dev",
    private readonly settings: Record<string, string>,
    readonly port: number,
    readonly adminPort: number,
  ) {}

  /** `serve` for a virtual host, ready for clients. */
  static async serve(rabbitmqUrl: string, settings: Record<string, string> = {}): Promise<Bridge> {
    const [port, adminPort] = [await freePort(), await freePort()];
    const own = { RABBITMQ_URL: rabbitmqUrl, HTTP_BIND: `127.0.0.1:${port}`, ADMIN_BIND: `127.0.0.1:${adminPort}` };
    return new Bridge("serve", { ...DEFAULTS, ...own, ...settings }, port, adminPort).started();
  }

  /** `dev`, ready for clients. */
  static async dev(settings: Record<string, string> = {}): Promise<Bridge> {
    const port = await freePort();
    return new Bridge("dev", { HTTP_BIND: `127.0.0.1:${port}`, ...settings }, port, port).started();
  }

  private async started(): Promise<this> {
    try {
      await this.start();
      return this;
    } catch (error) {
      await this.kill();
      throw error;
    }
  }

  /** Where clients connect. */
  get origin(): string {
    const scheme = this.settings["HTTP_TLS_CERT_FILE"] ? "https" : "http";
    return `${scheme}://127.0.0.1:${this.port}`;
  }

  get adminOrigin(): string {
    return `http://127.0.0.1:${this.adminPort}`;
  }

  /** The stream that a query asks for. */
  events(query = ""): string {
    return `${this.origin}/events${query && `?${query}`}`;
  }

  /** Starts it, where it was killed again on the same ports, and waits until it is ready. */
  async start(): Promise<void> {
    const output = path.join(this.folder, "output");
    const child = start(PROGRAM, [this.command], this.settings, { folder: this.folder, output });
    this.process = child;
    const ask = async () => {
      if (child.exitCode !== null) throw new Error(`the bridge ended at its start\n${this.outputTail()}`);
      const answer = await fetch(`${this.adminOrigin}/readyz`).catch(() => undefined);
      return answer?.ok ? true : undefined;
    };
    await eventually("the bridge is ready", SOON_SECONDS, ask, () => this.outputTail());
  }

  /** Ends it as a crash would. Its ports are closed when this returns. */
  async kill(): Promise<void> {
    if (this.process) await end(this.process, "SIGKILL");
  }

  /** Begins to end it as an operator would: clients are told, and then it drains. */
  async drain(): Promise<void> {
    if (this.process) await end(this.process, "SIGTERM");
  }

  /** One series of `/metrics`, by its name and labels as they are printed. */
  async metric(series: string): Promise<number> {
    const text = await (await fetch(`${this.adminOrigin}/metrics`)).text();
    const line = text.split("\n").find((line) => line.startsWith(`${series} `));
    if (!line) throw new Error(`no series ${series} in:\n${text}`);
    return Number(line.slice(series.length));
  }

  /** How many streams are open. */
  connections(): Promise<number> {
    return this.metric('sse_bridge_connections{transport="sse"}');
  }

  /** The last lines that it wrote. */
  outputTail(): string {
    return readFileSync(path.join(this.folder, "output"), "utf8").split("\n").slice(-40).join("\n");
  }
}

/** A token that the bridge takes where it is set so: `AUTH_MODE=jwt` and `AUTH_JWT_SECRET`. Signed here, by no code of the bridge's. */
export function token(claims: Record<string, unknown>, secret = JWT_SECRET): string {
  const encode = (part: unknown) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ exp, permissions: ["events:read"], ...claims })}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}
