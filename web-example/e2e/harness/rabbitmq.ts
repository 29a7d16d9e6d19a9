/**
 * A private RabbitMQ: its own node, ports, folder, cookie and epmd, on loopback only, with a virtual host for each test.
 *
 * Most tests share the node that global-setup.ts starts; a test that kills the broker starts its own.
 */
import { type ChildProcess } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import path from "node:path";

import { end, eventually, freePort, newFolder, run, start, takeNumber } from "./run";

/** Debian's folder of RabbitMQ. The wrappers in `/usr/sbin` would switch user and folder. */
const SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CONTROL = "/usr/lib/rabbitmq/bin/rabbitmqctl";
const USER = "bridge";
export const PASSWORD = "pass-word";

/** A node takes 5 seconds to start on an idle machine, and longer on two busy cores. */
export const START_LIMIT_SECONDS = 90;

/** Where the workers of a run find the shared node. */
const SHARED_PORT = "SSE_BRIDGE_TEST_RABBITMQ";
const EPMD_PORT = "SSE_BRIDGE_TEST_EPMD";
const SHARED_VHOSTS = 40;

/** This run's epmd, which outlives the nodes that register with it and ends with the run. */
export async function startEpmd(): Promise<void> {
  const port = String(await freePort());
  const folder = newFolder("epmd");
  start("epmd", ["-port", port], { ERL_EPMD_ADDRESS: "127.0.0.1" }, { folder, output: path.join(folder, "output") });
  process.env[EPMD_PORT] = port;
}

/** Starts the node that all workers share. */
export async function startSharedRabbitMq(): Promise<void> {
  const node = await RabbitMq.start(SHARED_VHOSTS);
  process.env[SHARED_PORT] = String(node.port);
}

/** The URL of a virtual host of the shared node that no other test has. */
export function sharedVhost(): string {
  const port = process.env[SHARED_PORT];
  const number = takeNumber("vhost");
  if (number >= SHARED_VHOSTS) throw new Error(`more than ${SHARED_VHOSTS} virtual hosts are asked for`);
  return `amqp://${USER}:${PASSWORD}@127.0.0.1:${port}/test-${number}`;
}

export class RabbitMq {
  private process: ChildProcess | undefined;

  private constructor(
    readonly port: number,
    private readonly distributionPort: number,
    private readonly folder: string,
  ) {}

  /** A node with so many virtual hosts, up and answering. */
  static async start(vhosts = 1): Promise<RabbitMq> {
    const node = new RabbitMq(await freePort(), await freePort(), newFolder("rabbitmq"));
    node.writeFiles(Array.from({ length: vhosts }, (_, number) => `test-${number}`));
    await node.start();
    return node;
  }

  /** The URL of its only virtual host, where it is a test's own. */
  get url(): string {
    return `amqp://${USER}:${PASSWORD}@127.0.0.1:${this.port}/test-0`;
  }

  /** Starts the node, on the data that it left. */
  async start(): Promise<void> {
    this.process = this.spawn();
    const ask = async () => {
      if (await this.answers()) return true;
      // Once in a while the name of a node that was just killed is still taken.
      if (this.process?.exitCode !== null) this.process = this.spawn();
      return undefined;
    };
    await eventually("RabbitMQ starts", START_LIMIT_SECONDS, ask, () => this.logTail());
  }

  /**
   * Writes what RabbitMQ 3.10 has in memory only: it knows of its first stream by a table that is saved late, and forgets it for
   * good when it is killed before.
   */
  async save(): Promise<void> {
    await run(CONTROL, ["eval", "[dets:sync(Table) || Table <- dets:all()]."], this.environment());
  }

  /** Ends the node as a power cut would. Its port is closed when this returns. */
  async kill(): Promise<void> {
    if (this.process) await end(this.process, "SIGKILL");
    this.process = undefined;
  }

  private writeFiles(vhosts: string[]): void {
    const permission = (vhost: string) => ({ user: USER, vhost, configure: ".*", write: ".*", read: ".*" });
    const definitions = {
      users: [{ name: USER, password: PASSWORD, tags: "administrator" }],
      vhosts: vhosts.map((name) => ({ name })),
      permissions: vhosts.map(permission),
    };
    const definitionsFile = this.path("definitions.json");
    mkdirSync(this.path("home"));
    writeFileSync(definitionsFile, JSON.stringify(definitions));
    writeFileSync(this.path("enabled_plugins"), "[].");
    const lines = [`listeners.tcp.1 = 127.0.0.1:${this.port}`, "loopback_users = none", `load_definitions = ${definitionsFile}`];
    writeFileSync(this.path("rabbitmq.conf"), lines.join("\n") + "\n");
  }

  private spawn(): ChildProcess {
    return start(SERVER, [], this.environment(), { folder: this.folder, output: this.path("output") });
  }

  /** What RabbitMQ's own scripts must know to find this node and no other. */
  private environment(): Record<string, string> {
    return {
      HOME: this.path("home"),
      RABBITMQ_CONF_ENV_FILE: "/dev/null",
      RABBITMQ_NODENAME: `sse-bridge-browser-${process.pid}-${this.port}@localhost`,
      RABBITMQ_NODE_IP_ADDRESS: "127.0.0.1",
      RABBITMQ_NODE_PORT: String(this.port),
      RABBITMQ_DIST_PORT: String(this.distributionPort),
      RABBITMQ_MNESIA_BASE: this.path("mnesia"),
      RABBITMQ_LOG_BASE: this.path("log"),
      RABBITMQ_CONFIG_FILE: this.path("rabbitmq"),
      RABBITMQ_ADVANCED_CONFIG_FILE: this.path("advanced"),
      RABBITMQ_ENABLED_PLUGINS_FILE: this.path("enabled_plugins"),
      RABBITMQ_PID_FILE: this.path("pid"),
      ERL_EPMD_PORT: process.env[EPMD_PORT] ?? "",
      ERL_EPMD_ADDRESS: "127.0.0.1",
      // The script then becomes the Erlang machine instead of watching over it, so that our child is the broker.
      RUNNING_UNDER_SYSTEMD: "true",
      // Schedulers that spin while they wait would take the two cores from the tests.
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
    };
  }

  /** Whether the listener greets, which it does when the virtual hosts are there. */
  private answers(): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = connect(this.port, "127.0.0.1");
      const answer = (yes: boolean) => {
        socket.destroy();
        resolve(yes);
      };
      socket.setTimeout(5000, () => answer(false));
      socket.once("error", () => answer(false));
      socket.once("close", () => answer(false));
      // 1 is the type of a method frame: `connection.start`.
      socket.once("data", (bytes) => answer(bytes[0] === 1));
      socket.once("connect", () => socket.write("AMQP\x00\x00\x09\x01"));
    });
  }

  private logTail(): string {
    const files = [this.path("output")];
    try {
      files.push(...readdirSync(this.path("log")).map((name) => path.join(this.path("log"), name)));
    } catch {
      // It has not got as far as a log.
    }
    const read = (file: string) => {
      try {
        return readFileSync(file, "utf8");
      } catch {
        return "";
      }
    };
    return files.map(read).join("\n").split("\n").slice(-40).join("\n");
  }

  private path(name: string): string {
    return path.join(this.folder, name);
  }
}
