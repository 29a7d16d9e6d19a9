/**
 * One run of the browser tests: its folder, its processes, and the promise that neither outlives it.
 *
 * A run may be interrupted, or killed outright. So a watchdog, a `sh` in a process group of its own, holds one end of a pipe:
 * when the other end closes, because the run ended in whichever way, it kills every process that carries the run's mark in its
 * environment (browsers and grandchildren too) and removes the folder. It never looks at a process without that mark.
 */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdirSync, mkdtempSync, openSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";

/** The variable that marks the processes of a run, and names its folder. */
const MARK = "SSE_BRIDGE_TEST_RUN";

const WATCHDOG = `
    cat > /dev/null
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        marked=$(grep -lasF -e "$1" /proc/[0-9]*/environ | cut -d/ -f3)
        [ -n "$marked" ] || break
        kill -9 $marked
        sleep 0.1
    done
    rm -rf -- "$2"
`;

/** The root of the repository. */
export const REPOSITORY = path.resolve(import.meta.dirname, "../../..");

/** Begins a run in this process: all that it starts from here on is marked. Gives what ends the run, and waits until all is gone. */
export function beginRun(): () => Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), "sse-bridge-browser-"));
  const watchdog = spawn("sh", ["-c", WATCHDOG, "sse-bridge-browser-watchdog", `${MARK}=${folder}`, folder], {
    cwd: "/",
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  });
  watchdog.unref();
  process.env[MARK] = folder;
  return async () => {
    const ended = once(watchdog, "exit");
    watchdog.ref();
    watchdog.stdin?.end();
    await ended;
  };
}

/** The folder of the run, which is removed with it. */
export function runFolder(): string {
  const folder = process.env[MARK];
  if (!folder) throw new Error("no run has begun: global-setup.ts does that");
  return folder;
}

/** A number that no worker of this run had before under this name, from 0. */
export function takeNumber(name: string): number {
  for (let number = 0; ; number += 1) {
    if (take(`${name}-${number}`)) return number;
  }
}

/** Whether nobody of this run, in whichever worker, has taken this before. */
function take(what: string): boolean {
  try {
    // Making a folder is the one thing that only one of several processes can do.
    mkdirSync(path.join(runFolder(), `taken-${what}`));
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    return false;
  }
}

/** A new, empty folder inside the run's own. */
export function newFolder(name: string): string {
  const folder = path.join(runFolder(), `${name}-${takeNumber(`folder-${name}`)}`);
  mkdirSync(folder);
  return folder;
}

/**
 * A command whose process ends with the run. Its environment is what is given, `PATH` and the mark, so that nothing of the
 * developer's own (`RABBITMQ_URL`, `RUST_LOG`) can decide a test. What it writes goes to a file.
 */
export function start(
  program: string,
  parameters: string[],
  environment: Record<string, string>,
  { folder, output }: { folder: string; output: string },
): ChildProcess {
  const log = openSync(output, "a");
  const child = spawn(program, parameters, { cwd: folder, env: marked(environment), stdio: ["ignore", log, log] });
  closeSync(log);
  return child;
}

/** Runs a program of the same kind to its end, and gives what it says. */
export async function run(program: string, parameters: string[], environment: Record<string, string>): Promise<string> {
  const { stdout } = await promisify(execFile)(program, parameters, { env: marked(environment) });
  return stdout;
}

function marked(environment: Record<string, string>): NodeJS.ProcessEnv {
  const variables: Record<string, string> = { ...environment, PATH: process.env["PATH"] ?? "", [MARK]: runFolder() };
  // Next.js wants NODE_ENV to be declared; what is given here is all of the environment nevertheless.
  return variables as NodeJS.ProcessEnv;
}

/** Sends a signal to a child of ours and waits for its end. One that ended already is as good. */
export async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill(signal);
  await ended;
}

let nextPort = process.pid * 37;

/**
 * A TCP port of loopback that nothing listens on, below the range from which the kernel takes the ports of outgoing
 * connections, so that it is still free when it is needed; and above 10080, the last of those that Chromium and Node refuse to
 * connect to. No other worker is given it either: what was killed is to find its port again.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const candidate = 11_000 + (nextPort % 21_000);
    nextPort += 1;
    if (!take(`port-${candidate}`)) continue;
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(candidate, "127.0.0.1", () => resolve(true));
    });
    if (!free) continue;
    await new Promise((resolve) => server.close(resolve));
    return candidate;
  }
}

/** Asks again and again until there is an answer, and says what was waited for, and why in vain, when the limit is over. */
export async function eventually<T>(
  what: string,
  limitSeconds: number,
  ask: () => Promise<T | undefined>,
  why: () => string = () => "",
): Promise<T> {
  const deadline = Date.now() + limitSeconds * 1000;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (Date.now() > deadline) throw new Error(`${what}: not within ${limitSeconds} s\n${why()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
