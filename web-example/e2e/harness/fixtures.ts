/** What every test has at hand. All that a test starts with these ends with it, and a page that complains fails it. */
import { test as base, type BrowserContext, type Page } from "@playwright/test";

import { Bridge } from "./bridge";
import { Link } from "./link";
import { Pages, type Answer } from "./pages";
import { Producer } from "./producer";
import { sharedVhost } from "./rabbitmq";
import { Site } from "./site";

interface Fixtures {
  /** The URL of a virtual host that no other test has. */
  vhost: () => string;
  /** Starts `serve` on that virtual host. */
  serve: (settings?: Record<string, string>, rabbitmqUrl?: string) => Promise<Bridge>;
  /** Starts `dev`. */
  dev: (settings?: Record<string, string>) => Promise<Bridge>;
  /** Publishes to that virtual host. `serve` must have run, as it declares the exchange. */
  produce: (rabbitmqUrl?: string) => Promise<Producer>;
  /** Puts a cable that can be cut before a port. */
  link: (port: number) => Promise<Link>;
  /** Starts a web server of another origin. */
  pages: (answers?: Record<string, Answer>) => Promise<Pages>;
  /** A page of another visitor, who shares no cookie with the others. */
  visitor: () => Promise<Page>;
  /** What pages may complain of in the console, because the test breaks something on purpose. */
  expectComplaints: (...patterns: RegExp[]) => void;
  /** What pages complained of so far: errors in the console, and errors that nobody caught. */
  complaints: string[];
}

interface WorkerFixtures {
  /** The example before a bridge of its own, the same for all tests of a worker. */
  site: Site;
}

/** A list of things that are ended in the reverse of the order in which they were started. */
function closing<T>(end: (thing: T) => Promise<void>): { things: T[]; add: (thing: T) => T; end: () => Promise<void> } {
  const things: T[] = [];
  return {
    things,
    add: (thing) => {
      things.push(thing);
      return thing;
    },
    end: async () => {
      for (const thing of things.toReversed()) await end(thing);
    },
  };
}

export const test = base.extend<Fixtures & { allowed: RegExp[] }, WorkerFixtures>({
  site: [
    async ({}, use) => {
      const site = await Site.start();
      await use(site);
      await site.end();
    },
    { scope: "worker" },
  ],

  vhost: async ({}, use) => {
    let url: string | undefined;
    await use(() => (url ??= sharedVhost()));
  },

  serve: async ({ vhost }, use, testInfo) => {
    const bridges = closing<Bridge>((bridge) => bridge.kill());
    await use(async (settings, rabbitmqUrl = vhost()) => bridges.add(await Bridge.serve(rabbitmqUrl, settings)));
    if (testInfo.status !== testInfo.expectedStatus) bridges.things.forEach((bridge) => console.log(bridge.outputTail()));
    await bridges.end();
  },

  dev: async ({}, use) => {
    const bridges = closing<Bridge>((bridge) => bridge.kill());
    await use(async (settings) => bridges.add(await Bridge.dev(settings)));
    await bridges.end();
  },

  produce: async ({ vhost }, use) => {
    // The broker that it is connected to may have been killed.
    const producers = closing<Producer>((producer) => producer.close().catch(() => undefined));
    await use(async (rabbitmqUrl = vhost()) => producers.add(await Producer.connect(rabbitmqUrl)));
    await producers.end();
  },

  link: async ({}, use) => {
    const links = closing<Link>((link) => link.refuse());
    await use(async (port) => links.add(await Link.to(port)));
    await links.end();
  },

  pages: async ({}, use) => {
    const servers = closing<Pages>((pages) => pages.close());
    await use(async (answers) => servers.add(await Pages.start(answers)));
    await servers.end();
  },

  allowed: async ({}, use) => use([]),
  expectComplaints: async ({ allowed }, use) => use((...patterns) => void allowed.push(...patterns)),
  complaints: async ({}, use) => use([]),

  visitor: async ({ browser, context, complaints }, use) => {
    void context; // It judges the complaints, after these pages are gone.
    const contexts = closing<BrowserContext>((context) => context.close());
    await use(async () => {
      const context = contexts.add(await browser.newContext());
      listenForComplaints(context, complaints);
      return context.newPage();
    });
    await contexts.end();
  },

  // Whatever a page talks to is named here so that it outlives the page, and nobody complains at the end of a test.
  context: async ({ context, complaints, allowed, serve, dev, link, pages }, use) => {
    void [serve, dev, link, pages];
    listenForComplaints(context, complaints);
    await use(context);
    const unexpected = complaints.filter((complaint) => !allowed.some((pattern) => pattern.test(complaint)));
    if (unexpected.length > 0) throw new Error(`pages complained:\n${unexpected.join("\n")}`);
  },
});

/** What Chromium says of a link that is cut, and of a server that is away. */
export const BROKEN_LINK = /net::ERR_(INCOMPLETE_CHUNKED_ENCODING|CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE)/;

/** Collects what any page of a context says is wrong. */
function listenForComplaints(context: BrowserContext, complaints: string[]): void {
  context.on("console", (message) => {
    const { url } = message.location();
    // Tests borrow /healthz as a page of the bridge's own origin; it is none, and has no icon.
    const isIconOfHealthz = url.endsWith("/favicon.ico") && message.page()?.url().endsWith("/healthz");
    if (message.type() === "error" && !isIconOfHealthz) complaints.push(`${message.text()} (${url})`);
  });
  context.on("weberror", (error) => complaints.push(String(error.error().stack ?? error.error())));
}

export { expect } from "@playwright/test";
