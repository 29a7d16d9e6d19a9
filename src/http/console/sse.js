// The wire: an SSE parser, and a stream over fetch that comes back by itself with its last id.
// Not the native EventSource, because that hands a named event only to listeners that knew the name
// before, and hides why it was refused. Knows nothing of the page.

const FIRST_RETRY_MS = 2000;
const LONGEST_WAIT_MS = 30_000;

/** WHATWG HTML §9.2.6, fed with bytes as they come, cut anywhere. */
export class SseParser {
  #decoder = new TextDecoder(); // takes off one BOM, holds back a character that is not whole yet
  #rest = ''; // a line without its end
  #endedInCr = false; // an LF that comes next belongs to it
  #data = [];
  #name = '';
  #id;
  #idHere = false; // in the block that is being read
  #handlers;

  /** `handlers`: `event({name, data, id})`, `checkpoint(id)` for an id without data, `retry(ms)`. */
  constructor(lastId, handlers) {
    this.#id = lastId;
    this.#handlers = handlers;
  }

  push(bytes) {
    const text = this.#decoder.decode(bytes, { stream: true });
    if (text === '') return;
    const start = this.#endedInCr && text.startsWith('\n') ? 1 : 0;
    this.#endedInCr = text.endsWith('\r');
    const lines = (this.#rest + text.slice(start)).split(/\r\n|\n|\r/);
    this.#rest = lines.pop();
    for (const line of lines) this.#take(line);
  }

  #take(line) {
    if (line === '') return this.#dispatch();
    const colon = line.indexOf(':');
    if (colon === 0) return; // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + (line[colon + 1] === ' ' ? 2 : 1));
    if (field === 'data') this.#data.push(value);
    else if (field === 'event') this.#name = value;
    else if (field === 'id' && !value.includes('\0')) [this.#id, this.#idHere] = [value, true];
    else if (field === 'retry' && /^[0-9]+$/.test(value)) this.#handlers.retry(Number(value));
  }

  #dispatch() {
    const [name, data, idHere] = [this.#name || 'message', this.#data, this.#idHere];
    [this.#name, this.#data, this.#idHere] = ['', [], false];
    if (data.length > 0) this.#handlers.event({ name, data: data.join('\n'), id: this.#id });
    else if (idHere) this.#handlers.checkpoint(this.#id);
  }
}

/** One wish to be connected, from `new` to `close()` or to an answer that no retry would change. */
export class EventStream {
  #url;
  #lastId;
  #handlers;
  #abort = new AbortController();
  #retry = FIRST_RETRY_MS;
  #failures = 0; // in a row
  #opened = false;

  /**
   * `handlers`: `state(state)`, `event({name, data, id})`, `checkpoint(id)`, `bytes(count)`. A state is
   * `{name: 'connecting'}`, `{name: 'open', again}`, `{name: 'reconnecting', seconds, reason}` (told
   * every second), or `{name: 'closed', reason}`, its last; `reason` is `{title, detail}`.
   */
  constructor(url, lastId, handlers) {
    this.#url = url;
    this.#lastId = lastId;
    this.#handlers = handlers;
    this.#run();
  }

  /** Ends it; no handler is called any more. */
  close() {
    this.#abort.abort();
  }

  async #run() {
    const { signal } = this.#abort;
    for (;;) {
      this.#handlers.state({ name: 'connecting' });
      const end = await this.#attempt();
      if (signal.aborted) return;
      if (end.final) return this.#handlers.state({ name: 'closed', reason: end.reason });
      const backOff = this.#retry * 2 ** Math.max(0, this.#failures - 1);
      const wait = Math.max(Math.min(backOff, LONGEST_WAIT_MS), this.#retry, end.retryAfterMs ?? 0);
      const until = performance.now() + wait;
      for (let left = wait; left > 0; left = until - performance.now()) {
        this.#handlers.state({ name: 'reconnecting', seconds: Math.ceil(left / 1000), reason: end.reason });
        await sleep(Math.min(left, left % 1000 || 1000), signal);
        if (signal.aborted) return;
      }
    }
  }

  /** One request, from its first byte to its last. Never rejects; says why it ended. */
  async #attempt() {
    const { signal } = this.#abort;
    let opened = false;
    try {
      const headers = { accept: 'text/event-stream' };
      if (this.#lastId) headers['last-event-id'] = utf8AsLatin1(this.#lastId);
      const response = await fetch(this.#url, { headers, cache: 'no-store', signal });
      if (response.status !== 200) return await this.#refused(response);
      const type = response.headers.get('content-type') ?? 'nothing';
      if (!/^text\/event-stream\s*(;|$)/i.test(type)) {
        return { final: true, reason: { title: 'Not an event stream', detail: `Content-Type is ${type}` } };
      }
      opened = true;
      this.#failures = 0;
      this.#handlers.state({ name: 'open', again: this.#opened });
      this.#opened = true;
      await this.#read(response.body);
      return { reason: { title: 'The server ended the stream' } };
    } catch (error) {
      if (!opened) this.#failures += 1;
      const title = opened ? 'The connection was lost' : 'The server cannot be reached';
      return { reason: { title, detail: error.message } };
    }
  }

  async #read(body) {
    const keep = (id) => { this.#lastId = id; };
    const parser = new SseParser(this.#lastId, {
      event: (event) => { keep(event.id); this.#handlers.event(event); },
      checkpoint: (id) => { keep(id); this.#handlers.checkpoint(id); },
      retry: (milliseconds) => { this.#retry = milliseconds; },
    });
    for (const reader = body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done || this.#abort.signal.aborted) return;
      this.#handlers.bytes(value.byteLength);
      parser.push(value);
    }
  }

  async #refused(response) {
    this.#failures += 1;
    const passes = response.status >= 500 || response.status === 429 || response.status === 408;
    const retryAfterMs = Number(response.headers.get('retry-after')) * 1000 || 0;
    return { final: !passes, reason: await problem(response), retryAfterMs };
  }
}

/** The `{title, detail}` of an application/problem+json answer (RFC 9457), or the nearest to it. */
export async function problem(response) {
  const text = await response.text();
  const status = `${response.status} ${response.statusText}`.trim();
  try {
    const { title, detail } = JSON.parse(text);
    return { title: `${response.status} ${title ?? response.statusText}`, detail };
  } catch {
    return { title: status, detail: text.slice(0, 300) };
  }
}

/** A header carries bytes; fetch takes each character for one. */
function utf8AsLatin1(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(finish, milliseconds);
    signal.addEventListener('abort', finish);
    function finish() {
      clearTimeout(timer);
      signal.removeEventListener('abort', finish);
      resolve();
    }
  });
}
