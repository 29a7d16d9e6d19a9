// The console's parser of event streams reads the shared vectors as a browser does, however they are cut.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { SseParser } from '../../src/http/console/sse.js';

const vectors = (name) => JSON.parse(readFileSync(new URL(`../vectors/sse/${name}.json`, import.meta.url), 'utf8'));

function read(wire, size) {
  const found = { messages: [], lastEventId: '', retry: null };
  const parser = new SseParser('', {
    event: ({ name, data, id }) => { found.messages.push({ lastEventId: id, type: name, data }); found.lastEventId = id; },
    checkpoint: (id) => { found.lastEventId = id; },
    retry: (milliseconds) => { found.retry = milliseconds; },
  });
  const bytes = new TextEncoder().encode(wire);
  for (let start = 0; start < bytes.length; start += size) parser.push(bytes.subarray(start, start + size));
  return found;
}

const streams = [
  ...vectors('streams'),
  ...vectors('events').map(({ name, wire, message }) => ({ name, wire, messages: [message], lastEventId: message.lastEventId, retry: null })),
];
assert.ok(streams.length > 10, 'are those the vectors?');

for (const { name, wire, messages, lastEventId, retry } of streams) {
  test(name, () => {
    for (const size of [1, 2, 3, 7, Infinity]) assert.deepEqual(read(wire, size), { messages, lastEventId, retry }, `in pieces of ${size}`);
  });
}
