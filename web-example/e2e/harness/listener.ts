/** A page's EventSource, the browser's own, and all that it was told. */
import { type JSHandle, type Page } from "@playwright/test";

export interface Message {
  type: string;
  data: string;
  lastEventId: string;
}

interface Record_ {
  source: EventSource;
  messages: Message[];
  opened: number;
  failed: number;
}

export class Listener {
  private constructor(private readonly handle: JSHandle<Record_>) {}

  /** Makes an EventSource in the page, which listens for messages without a name and for those with one of these. */
  static async open(
    page: Page,
    url: string,
    { events = [], withCredentials = false }: { events?: string[]; withCredentials?: boolean } = {},
  ): Promise<Listener> {
    const handle = await page.evaluateHandle(
      ({ url, events, withCredentials }) => {
        const source = new EventSource(url, { withCredentials });
        const record: Record_ = { source, messages: [], opened: 0, failed: 0 };
        for (const name of ["message", ...events]) {
          source.addEventListener(name, ({ type, data, lastEventId }: MessageEvent<string>) => {
            record.messages.push({ type, data, lastEventId });
          });
        }
        source.onopen = () => (record.opened += 1);
        source.onerror = () => (record.failed += 1);
        return record;
      },
      { url, events, withCredentials },
    );
    return new Listener(handle);
  }

  messages(): Promise<Message[]> {
    return this.handle.evaluate(({ messages }) => messages);
  }

  /** The bodies of its messages, parsed. */
  async bodies(): Promise<unknown[]> {
    return (await this.messages()).map(({ data }) => JSON.parse(data) as unknown);
  }

  /** How often it was opened, and how often it failed, so far. */
  counts(): Promise<{ opened: number; failed: number }> {
    return this.handle.evaluate(({ opened, failed }) => ({ opened, failed }));
  }

  /** Whether it is open, on its way, or has given up. */
  state(): Promise<"connecting" | "open" | "closed"> {
    return this.handle.evaluate(({ source }) => (["connecting", "open", "closed"] as const)[source.readyState] ?? "closed");
  }

  close(): Promise<void> {
    return this.handle.evaluate(({ source }) => source.close());
  }
}
