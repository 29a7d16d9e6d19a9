/** A certificate for loopback that nobody signed: the context of a test that uses it sets `ignoreHTTPSErrors`. */
import path from "node:path";

import { newFolder, run } from "./run";

export async function certificate(): Promise<{ certificateFile: string; keyFile: string }> {
  const folder = newFolder("certificate");
  const [certificateFile, keyFile] = [path.join(folder, "certificate.pem"), path.join(folder, "key.pem")];
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", keyFile];
  const subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"];
  await run("openssl", ["req", "-x509", ...key, ...subject, "-out", certificateFile], {});
  return { certificateFile, keyFile };
}
