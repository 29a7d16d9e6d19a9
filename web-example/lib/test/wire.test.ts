/** The wire format: the vectors that every encoder and parser of this repository is held to, and cases of a client's own. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { type Block, Parser } from "../parser";
import { Recorded, Server } from "./harness";

interface Message {
  lastEventId: string;
  type: string;
  data: string;
}

interface EventVector {
  name: string;
  wire: string;
  message: Message;
}

interface StreamVector {
  name: string;
  wire: string;
  messages: Message[];
  lastEventId: string;
  retry: number | null;
}

function vectors<T>(file: string): T[] {
  const read = JSON.parse(readFileSync(path.resolve("../../tests/vectors/sse", file), "utf8")) as T[];
  assert.ok(read.length > 10, file);
  return read;
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** The blocks of a stream that comes in chunks of this size. */
function parse(wire: Uint8Array, size = wire.length): { blocks: Block[]; parser: Parser } {
  const parser = new Parser();
  const blocks: Block[] = [];
  for (let at = 0; at < wire.length; at += size) blocks.push(...parser.push(wire.subarray(at, at + size)));
  return { blocks, parser };
}

/** What a page is given of these blocks. */
function read(blocks: Block[]): { messages: Message[]; lastEventId: string } {
  let lastEventId = "";
  const messages: Message[] = [];
  for (const { id, type, data } of blocks) {
    lastEventId = id ?? lastEventId;
    if (data !== undefined) messages.push({ lastEventId, type, data });
  }
  return { messages, lastEventId };
}

test("every stream of the vectors is read alike however it is cut", () => {
  for (const { name, wire, messages, lastEventId, retry } of vectors<StreamVector>("streams.json")) {
    const all = bytes(wire);
    for (let size = 1; size <= Math.max(1, all.length); size += 1) {
      const { blocks, parser } = parse(all, size);
      assert.deepEqual(read(blocks), { messages, lastEventId }, `${name} by ${size}`);
      assert.equal(parser.retry ?? null, retry, `${name} by ${size}`);
    }
  }
});

test("every event of the vectors is read as its message", () => {
  for (const { name, wire, message } of vectors<EventVector>("events.json")) {
    for (const size of [1, 2, 3, wire.length]) assert.deepEqual(read(parse(bytes(wire), size).blocks).messages, [message], name);
  }
});

test("a line that ends in CR ends at once, and an LF that comes later is one with it", () => {
  const parser = new Parser();
  assert.deepEqual(parser.push(bytes("data: 1\r\r")), [{ type: "message", data: "1" }]);
  assert.deepEqual(parser.push(bytes("\ndata: 2\r")), []);
  assert.deepEqual(parser.push(bytes("\n")), []);
  assert.deepEqual(parser.push(bytes("\r\n")), [{ type: "message", data: "2" }]);
  assert.deepEqual(parser.push(bytes("data: 3\n")), []);
  assert.deepEqual(parser.push(bytes("\n")), [{ type: "message", data: "3" }]);
});

test("an empty chunk between CR and LF does not part them", () => {
  const parser = new Parser();
  parser.push(bytes("data: 1\r"));
  assert.deepEqual(parser.push(bytes("")), []);
  assert.deepEqual(parser.push(bytes("\ndata: 2\n\n")), [{ type: "message", data: "1\n2" }]);
});

test("what is no UTF-8 is replaced, and the rest is whole", () => {
  const wire = Uint8Array.of(...bytes("data: a"), 0xff, 0xc3, ...bytes("b\n\ndata: c\n\n"));
  for (const size of [1, wire.length]) {
    assert.deepEqual(
      parse(wire, size).blocks.map(({ data }) => data),
      ["a\ufffd\ufffdb", "c"],
    );
  }
});

test("lines of other alphabets are not ended by what only looks like a line end", () => {
  const data = "a\u2028b\u2029c\u0085d\ve\ff";
  assert.deepEqual(parse(bytes(`data: ${data}\n\n`)).blocks, [{ type: "message", data }]);
});

test("a megabyte in one line is read in a moment, in chunks as the network has them", () => {
  const data = "x".repeat(1_000_000);
  const begun = process.cpuUsage();
  assert.equal(parse(bytes(`data: ${data}\n\n`), 1_400).blocks[0]?.data, data);
  // What this process worked, not how long it took: others may have the machine meanwhile. To read the line anew with each chunk is
  // a hundred times as much.
  const { user, system } = process.cpuUsage(begun);
  assert.ok(user + system < 200_000, `${user + system} µs`);
});

test("over a socket, byte by byte, a stream is what it is in one piece", async (test) => {
  const wire = "\ufeffretry: 5\r\n\r\nid: 1-00000001\r\revent: größe\rdata: 事件🚀\r\n: x\ndata: 2\n\nid: 2-00000002\n\nid: 3\u0000\n\ndata: end\n\n";
  const parsed = JSON.stringify(["事件🚀\n2", "end"]);
  const server = await Server.start(test, (exchange) => void exchange.stream().sendSlowly(bytes(wire)));
  const recorded = new Recorded(test, server.url, { parse: (data) => data });
  assert.equal(JSON.stringify(await recorded.data(2)), parsed);
  assert.deepEqual(
    recorded.events.map(({ id, type }) => `${id} ${type}`),
    ["1-00000001 größe", "2-00000002 message"],
  );
});
