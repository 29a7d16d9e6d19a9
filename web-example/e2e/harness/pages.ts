/** Somebody else's web server: blank pages of an origin of its own, and answers that a test makes up. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";

import { freePort } from "./run";

const BLANK = '<!doctype html><html lang="en"><title>a page</title><link rel="icon" href="data:,">';

export type Answer = (request: IncomingMessage, response: ServerResponse) => void;

export class Pages {
  private constructor(
    private readonly server: Server,
    readonly port: number,
  ) {}

  /** Pages at any path, except where a test answers. */
  static async start(answers: Record<string, Answer> = {}): Promise<Pages> {
    const server = createServer((request, response) => {
      const answer = answers[request.url ?? ""];
      if (answer) return answer(request, response);
      response.setHeader("Content-Type", "text/html; charset=utf-8").end(BLANK);
    });
    const pages = new Pages(server, await freePort());
    await new Promise<void>((resolve) => server.listen(pages.port, "127.0.0.1", resolve));
    return pages;
  }

  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve));
    this.server.closeAllConnections();
    await closed;
  }
}
