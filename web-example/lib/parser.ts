/** The wire format: bytes in, blocks out (WHATWG HTML §9.2.5 and §9.2.6). Knows nothing of connections or of the bridge. */

/** What stood between two blank lines. */
export interface Block {
  /** The id, if the block bore one: from here on it is the last event id, also without data (a checkpoint). */
  id?: string;
  /** The event's name; `message` where it has none. */
  type: string;
  /** The data; without any, nothing is dispatched. */
  data?: string;
}

export class Parser {
  /** The reconnection time in milliseconds, if the stream has set one. */
  retry: number | undefined;
  // As the standard has it, this takes one byte order mark away and replaces what is no UTF-8.
  #decoder = new TextDecoder();
  #line = "";
  #endedInReturn = false;
  #block: Block = { type: "" };

  /** The blocks that end in these bytes. A block that no blank line ends is never seen: it will be sent again. */
  push(bytes: Uint8Array): Block[] {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return [];
    // A CR ends its line at once, so that an LF right behind it, in the next chunk, is one with it.
    if (this.#endedInReturn && text.startsWith("\n")) text = text.slice(1);
    this.#endedInReturn = text.endsWith("\r");
    const [first = "", ...rest] = text.split(/\r\n?|\n/);
    const lines = [this.#line + first, ...rest];
    this.#line = lines.pop()!;
    return lines.flatMap((line) => this.#take(line));
  }

  #take(line: string): Block[] {
    const block = this.#block;
    if (!line) {
      this.#block = { type: "" };
      return [{ ...block, type: block.type || "message" }];
    }
    // A line without a colon is a field without a value; one that begins with a colon is a comment, a field without a name.
    const [, field, value = ""] = /^([^:]*):? ?(.*)$/s.exec(line)!;
    if (field === "data") block.data = block.data === undefined ? value : `${block.data}\n${value}`;
    else if (field === "event") block.type = value;
    else if (field === "id" && !value.includes("\0")) block.id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
    return [];
  }
}
