/** Many tabs with a stream each: where a browser comes to an end, and what lifts that. */
import { type BrowserContext } from "@playwright/test";

import { certificate } from "./harness/certificate";
import { expect, test } from "./harness/fixtures";
import { Listener } from "./harness/listener";

/** Opens so many tabs, each with a stream of its own. */
async function openTabs(context: BrowserContext, count: number, origin: string, url: string): Promise<Listener[]> {
  const tabs = Array.from({ length: count }, async () => {
    const page = await context.newPage();
    await page.goto(origin);
    return Listener.open(page, url);
  });
  return Promise.all(tabs);
}

test("over HTTP/1.1 six tabs have their stream, a seventh waits, and has its own as soon as one of them closes", async ({
  context,
  serve,
  produce,
  pages,
}) => {
  const elsewhere = await pages();
  const bridge = await serve({ HTTP_CORS_ORIGINS: elsewhere.origin });
  const producer = await produce();
  const url = bridge.events("team_id=7");
  const six = await openTabs(context, 6, elsewhere.origin, url);
  for (const tab of six) await expect.poll(() => tab.state()).toBe("open");
  const [seventh] = await openTabs(context, 1, elsewhere.origin, url);
  if (!seventh) throw new Error("a seventh tab");

  // Whatever else a page asks of that host waits too: not even a short request gets through.
  const page = await context.newPage();
  await page.goto(elsewhere.origin);
  const short = await page.evaluateHandle((url) => {
    const request = { answered: false };
    void fetch(url, { mode: "no-cors" }).then(() => (request.answered = true));
    return request;
  }, `${bridge.origin}/healthz`);
  await producer.publish("team.7.note", "for all");
  for (const tab of six) await expect.poll(() => tab.bodies()).toEqual(["for all"]);
  expect(await seventh.state()).toBe("connecting");
  expect(await short.evaluate(({ answered }) => answered)).toBe(false);
  expect(await bridge.connections()).toBe(6);

  await six[0]?.close();
  await expect.poll(() => seventh.state()).toBe("open");
  await six[1]?.close();
  await expect.poll(() => short.evaluate(({ answered }) => answered)).toBe(true);
  await producer.publish("team.7.note", "for all again");
  await expect.poll(() => seventh.bodies()).toEqual(["for all again"]);
});

test.describe("over HTTP/2", () => {
  test.use({ ignoreHTTPSErrors: true });

  test("twenty tabs have their stream, all over the connection of the first", async ({ context, serve, produce, pages }) => {
    const elsewhere = await pages();
    const { certificateFile, keyFile } = await certificate();
    const bridge = await serve({
      HTTP_CORS_ORIGINS: elsewhere.origin,
      HTTP_TLS_CERT_FILE: certificateFile,
      HTTP_TLS_KEY_FILE: keyFile,
    });
    const producer = await produce();
    const url = bridge.events("team_id=7");
    // One first: until Chromium knows that a host speaks HTTP/2 it makes a connection for each request.
    const tabs = await openTabs(context, 1, elsewhere.origin, url);
    await expect.poll(() => tabs[0]?.state()).toBe("open");
    tabs.push(...(await openTabs(context, 19, elsewhere.origin, url)));
    for (const tab of tabs) await expect.poll(() => tab.state()).toBe("open");
    await producer.publish("team.7.note", "for all");
    for (const tab of tabs) await expect.poll(() => tab.bodies()).toEqual(["for all"]);
    expect(await bridge.connections()).toBe(20);
    // While the first was slow to connect, Chromium may have begun another, which then carries nothing.
    expect(await bridge.metric("sse_bridge_sockets")).toBeLessThanOrEqual(2);
  });
});
