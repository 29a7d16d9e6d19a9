/** What no log may hold: at the end of a run all that its bridges and sites wrote is searched for the secrets that they were given. */
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";

/** The beginning of any JSON Web Token: two objects in base64url (RFC 7515 §7.1). */
const TOKEN = /eyJ[\w-]{8,}\.eyJ[\w-]{8,}/;

/** Fails if a process of the run whose folder this is wrote a token, or one of these secrets. */
export function searchOutput(folder: string, secrets: string[]): void {
  const outputs = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => path.basename(name) === "output");
  const bridges = outputs.filter((name) => name.startsWith("bridge-"));
  if (bridges.length === 0) throw new Error(`no bridge of this run left its output in ${folder}`);
  for (const output of outputs) {
    const text = readFileSync(path.join(folder, output), "utf8");
    const leaked = [...secrets.filter((secret) => text.includes(secret)), ...(TOKEN.exec(text) ?? [])];
    if (leaked.length > 0) throw new Error(`${output} holds a secret of the tests: ${leaked[0]}`);
  }
}
