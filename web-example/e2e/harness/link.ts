/** What lies between a browser and a server: a TCP proxy that keeps what was said, and can be cut like a cable. */
import { connect, createServer, type Server, type Socket } from "node:net";

import { freePort } from "./run";

/** One TCP connection that went through. */
export interface Passage {
  /** What the browser sent, and what it was sent, so far. */
  asked: string;
  answered: string;
}

export class Link {
  /** Every connection, in the order in which they were made. */
  readonly passages: Passage[] = [];
  private readonly sockets = new Set<Socket>();

  private constructor(
    private readonly server: Server,
    readonly port: number,
  ) {}

  static async to(target: number): Promise<Link> {
    const server = createServer();
    const link = new Link(server, await freePort());
    server.on("connection", (browser) => link.pass(browser, target));
    await link.accept();
    return link;
  }

  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** The heads of all requests, in order. */
  requests(): string[] {
    return this.passages.flatMap(({ asked }) => asked.split("\r\n\r\n").filter((head) => head !== ""));
  }

  /** The status of the answer on each connection that was asked anything: a browser may open one more than it needs. */
  statuses(): number[] {
    return this.passages.filter(({ asked }) => asked !== "").map(({ answered }) => Number(answered.split(" ", 2)[1]));
  }

  /** Cuts all connections. New ones can be made at once. */
  cut(): void {
    for (const socket of this.sockets) socket.destroy();
  }

  /** Cuts all connections, and takes no new ones. */
  async refuse(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve));
    this.cut();
    await closed;
  }

  /** Takes connections again. */
  async accept(): Promise<void> {
    await new Promise<void>((resolve) => this.server.listen(this.port, "127.0.0.1", resolve));
  }

  private pass(browser: Socket, target: number): void {
    const server = connect(target, "127.0.0.1");
    const passage: Passage = { asked: "", answered: "" };
    this.passages.push(passage);
    browser.on("data", (bytes) => (passage.asked += bytes.toString("latin1")));
    server.on("data", (bytes) => (passage.answered += bytes.toString("latin1")));
    browser.pipe(server);
    server.pipe(browser);
    for (const [socket, other] of [
      [browser, server],
      [server, browser],
    ] as const) {
      this.sockets.add(socket);
      socket.on("error", () => undefined);
      socket.on("close", () => {
        this.sockets.delete(socket);
        other.destroy();
      });
    }
  }
}

/** A header of a request's head; `undefined` where it was not sent. */
export function header(head: string, name: string): string | undefined {
  const line = head.split("\r\n").find((line) => line.toLowerCase().startsWith(`${name.toLowerCase()}:`));
  return line?.slice(name.length + 1).trim();
}
