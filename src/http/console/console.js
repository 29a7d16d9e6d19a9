// The console: charts, a form, a list; in `dev` another form and counters of the connection. The page
// that the server sends has the parts that there are. What is listed is GET /tail, or in `dev` what a
// client is sent by GET /events. It is gathered and drawn once per frame, so that a burst costs the
// browser no more than the rows that are seen.

import { bytes, clock, number } from './format.js';
import { EventStream, problem } from './sse.js';
import { compact, isJson, members, pretty } from './json.js';
import { watchVitals } from './vitals.js';

const DEV = document.documentElement.dataset.console === 'dev';

const ROWS = 500;
const NAMES = 40; // counted one by one; later ones together
const SUMMARY_CHARACTERS = 400;
const COLOURED_PIECES = 4000; // a larger body is shown in one colour
const AUDIENCES = ['user_id', 'team_id', 'channel', 'tenant_id'];

const $ = (id) => document.getElementById(id);
const connectForm = $('connect');
const publishForm = $('publish');
const list = $('list');

// ── Connecting ───────────────────────────────────────────────────────────────────────────────────

let stream = null;
let stateName = 'closed';
let applied = ''; // the query of the stream that runs

const split = (text) => text.split(',').map((value) => value.trim()).filter((value) => value !== '');

/** The path of what is listed, from the page's own. */
const source = () => (DEV ? $('source').querySelector(':checked').value : 'tail');

/** The query that the form stands for; throws with a sentence where it stands for none. */
function query() {
  const fields = connectForm.elements;
  const found = new URLSearchParams();
  for (const name of [...AUDIENCES, 'topic', 'event']) {
    for (const value of split(fields[name].value)) found.append(name, value);
  }
  let attribute = null;
  for (const part of split(fields.attributes.value)) { // `job_id=9, 10` is two values of one
    const [, name, value] = /^([a-z][a-z0-9_]*)\s*=\s*(.*)$/.exec(part) ?? [null, attribute, part];
    if (name === null) throw new Error(`“${part}” is not name=value, as in job_id=9`);
    attribute = name;
    found.append(name, value);
  }
  if (!fields.broadcast.checked) found.set('broadcast', 'false');
  if (source() === 'events') found.set('envelope', 'true'); // topic and time are only there
  return found;
}

/** The reverse of `query`, so that a reload, or a link with a #fragment, keeps the filters. */
function restoreFilters(found) {
  const fields = connectForm.elements;
  const add = (field, value) => { field.value += (field.value === '' ? '' : ', ') + value; };
  for (const [name, value] of found) {
    if (name === 'broadcast') fields.broadcast.checked = value !== 'false';
    else if ([...AUDIENCES, 'topic', 'event'].includes(name)) add(fields[name], value);
    else if (name !== 'envelope') add(fields.attributes, `${name}=${value}`);
  }
}

function connect() {
  let wanted;
  try {
    wanted = query();
  } catch (error) {
    fieldError(connectForm.elements.attributes, error.message);
    return;
  }
  applied = wanted.toString();
  stream?.close();
  if (source() === 'tail') clear(); // of other filters, and the dead letters that are kept come again
  stream = new EventStream(`${source()}?${applied}`, lastEventId(), {
    state: showState,
    event: take,
    checkpoint: (id) => { counters.checkpoints += 1; counters.lastId = id; redraw(); },
    bytes: (size) => { if (source() === 'events') counters.bytes += size; },
  });
  wanted.delete('envelope');
  history.replaceState(null, '', wanted.size > 0 ? `#${wanted}` : location.pathname);
  showCurl();
}

const lastEventId = () => (source() === 'events' ? connectForm.elements.last_event_id.value.trim() : '');

function disconnect() {
  stream.close();
  showState({ name: 'closed' });
}

const HINT = 'Several values: comma separated. No filter: everything.';
const sentence = ({ title, detail }) => [title, detail].filter(Boolean).join(': ');

function showState(state) {
  const text = {
    connecting: 'connecting',
    open: 'open',
    reconnecting: `reconnecting in ${state.seconds} s`,
    closed: state.reason ? 'refused' : 'closed',
  }[state.name];
  if (state.name === 'open' && state.again) {
    listed = newest;
    if (source() === 'events') counters.reconnects += 1;
  }
  const reason = state.reason ? sentence(state.reason) : '';
  // While it tries again the last reason stays: it would flicker otherwise.
  if (state.name !== 'connecting' || stateName === 'closed') {
    $('reason').textContent = reason || HINT;
    $('reason').classList.toggle('bad', reason !== '');
  }
  if (state.name !== stateName && !(stateName === 'reconnecting' && state.name === 'connecting')) {
    $('announcement').textContent = reason ? `${text}. ${reason}` : text;
  }
  stateName = state.name;
  $('state').dataset.state = state.reason && state.name === 'closed' ? 'refused' : state.name;
  $('state').textContent = text;
  $('toggle').textContent = state.name === 'closed' ? 'Connect' : 'Disconnect';
  $('toggle').classList.toggle('primary', state.name === 'closed');
  showCurl();
  redraw();
}

// ── Receiving ────────────────────────────────────────────────────────────────────────────────────

const counters = {};
const perSecond = new Map(); // second → events in it, a minute of them
let pending = []; // not drawn yet, oldest first; while paused they wait here
let dropped = 0; // older than the newest ROWS, so not to be seen any more
let unseen = 0; // were judged, too many at once to be told
let newest = 0; // when the newest of the tail was judged, by the server's clock
let listed = 0; // the same when the connection was lost: what was kept until then comes again
let paused = false;
let frame = 0;

const second = () => Math.floor(performance.now() / 1000);

function resetCounters() {
  Object.assign(counters, {
    received: 0, bytes: 0, gaps: 0, missed: 0, missedUnknown: false, reconnects: 0, checkpoints: 0,
    lastId: counters.lastId ?? '', names: new Map(),
  });
  perSecond.clear();
  redraw();
}

function take({ name, data, id }) {
  const of = source();
  if (of === 'tail' && name === 'bridge.gap') { // nothing was lost but the sight of it
    unseen += parsed(data)?.missed ?? 0;
    return redraw();
  }
  const control = name.startsWith('bridge.');
  if (of === 'events') count(name, data, id, control);
  if (name === 'bridge.heartbeat') return redraw();
  if (of === 'tail' && !control) {
    const { at = 0 } = parsed(data) ?? {};
    if (at <= listed) return;
    newest = Math.max(newest, at);
  }
  pending.push({ name, data, id, control, at: new Date(), source: of });
  if (pending.length > 2 * ROWS) { // a hidden page draws nothing, but receives
    dropped += pending.length - ROWS;
    pending = pending.slice(-ROWS);
  }
  redraw();
}

function count(name, data, id, control) {
  counters.lastId = id;
  if (name === 'bridge.heartbeat') counters.checkpoints += 1;
  if (name === 'bridge.gap') countGap(data);
  if (control) return;
  counters.received += 1;
  const known = counters.names.has(name) || counters.names.size < NAMES ? name : '(others)';
  counters.names.set(known, (counters.names.get(known) ?? 0) + 1);
  perSecond.set(second(), (perSecond.get(second()) ?? 0) + 1);
}

function countGap(data) {
  const { missed = null } = parsed(data) ?? {};
  counters.gaps += 1;
  if (missed === null) counters.missedUnknown = true;
  else counters.missed += missed;
}

/** An object, or null: what a control event or an envelope should be. */
function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}

function redraw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    if (DEV) drawCounters();
    if (!paused) drawEvents();
    drawNote();
  });
}

// ── The list ─────────────────────────────────────────────────────────────────────────────────────

const records = new WeakMap(); // row → what it shows

function drawEvents() {
  const newest = pending.slice(-ROWS).reverse();
  dropped += pending.length - newest.length;
  pending = [];
  if (newest.length === 0) return;
  const scroller = $('events');
  // Who has scrolled down to read keeps the place; most browsers see to it themselves.
  const holds = scroller.scrollTop > 0 && !CSS.supports('overflow-anchor: auto');
  const before = holds ? scroller.scrollHeight : 0;
  list.prepend(...newest.map(row));
  if (holds) scroller.scrollTop += scroller.scrollHeight - before;
  while (list.childElementCount > ROWS) {
    list.lastElementChild.remove();
    dropped += 1;
  }
}

function drawNote() {
  const total = list.childElementCount;
  const word = $('search').value.trim();
  const parts = [word === '' ? `${number(total)} shown` : `${number(list.querySelectorAll('li:not([hidden])').length)} of ${number(total)} match`];
  if (dropped > 0) parts.push(`${number(dropped)} older let go`);
  if (unseen > 0) parts.push(`${number(unseen)} too fast to list`);
  if (paused) parts.push(`${number(pending.length)} waiting`);
  $('list-note').textContent = parts.join(' · ');
  $('empty').hidden = total > 0;
}

function row(received) {
  const record = received.control ? controlRecord(received) : received.source === 'tail' ? judgedRecord(received) : eventRecord(received);
  const item = element('li', record.kind);
  const summary = element('summary', '', record.cells.map(([column, text]) => element('span', column, text)));
  summary.tabIndex = -1; // five hundred tab stops help nobody: the arrow keys go through the list
  item.append(element('details', '', [summary]));
  record.text = [...record.cells.slice(1).map(([, text]) => text), record.facts?.detail].join('\n').toLowerCase();
  records.set(item, record);
  item.hidden = !matches(record);
  return item;
}

function eventRecord({ name, data, id, at }) {
  const envelope = parsed(data);
  const body = envelope && !Array.isArray(envelope) ? members(data).get('data') : undefined;
  // Where it is not the envelope that was asked for, what came is shown.
  const { topic = '', event = name, id: ownId = id, time } = body === undefined ? {} : envelope;
  const shown = body ?? data;
  const facts = { topic, event: event ?? name, id: ownId, published: published(time) };
  return { kind: 'event', facts, body: shown, cells: cells(at, topic, facts.event, ownId, isJson(shown) ? compact(shown) : shown) };
}

const cells = (at, topic, name, id, data) => [
  ['time', clock(at)], ['topic', topic], ['name', name], ['id', id], ['data', data.slice(0, SUMMARY_CHARACTERS)],
];

const VERDICTS = { dead_letter: 'dead letter', seen: 'seen before' };

/** What became of a message: metadata, all of it text from outside. */
function judgedRecord({ data, at }) {
  const judged = parsed(data) ?? {};
  const { topic = '', event, tenant, audience, verdict = '', reason, detail, listening, id = '' } = judged;
  const size = `${number(judged.bytes ?? 0)} bytes`;
  const facts = { verdict, reason, detail, tenant, audience, topic, event, id, body: size, listening: listening === undefined ? '' : number(listening) };
  const whose = audience ? [tenant, audience].filter(Boolean).join(' / ') : reason ?? '';
  return {
    kind: `judged ${verdict === 'published' ? '' : verdict === 'dead_letter' ? 'dead' : 'passed'}`.trim(), facts,
    cells: [
      ['time', clock(judged.at ? new Date(judged.at) : at)], ['verdict', VERDICTS[verdict] ?? verdict], ['audience', whose], ['topic', topic],
      ['name', event ?? ''], ['size', number(judged.bytes ?? 0)], ['listening', listening === undefined ? '' : number(listening)], ['id', id],
    ],
  };
}

const REASONS = {
  'bridge.gap': {
    slow: 'this connection fell behind', expired: 'the id is older than what is kept', unknown: 'the id is not known here',
  },
  'bridge.bye': { drain: 'the server is going down', expired: 'the token has ended', revoked: 'the token was revoked' },
};

function controlRecord({ name, data, at }) {
  const { reason, missed } = parsed(data) ?? {};
  const because = [reason, REASONS[name]?.[reason]].filter(Boolean).join(': ');
  const said = {
    'bridge.gap': `${missed == null ? 'an unknown number of events' : missed === 1 ? '1 event' : `${number(missed)} events`} missed`,
    'bridge.bye': 'the server ends this stream',
    'bridge.expiring': 'the token ends soon, and the stream with it',
  }[name] ?? compact(isJson(data) ? data : JSON.stringify(data));
  const summary = because ? `${said} (${because})` : said;
  return { kind: `control ${name === 'bridge.gap' ? 'gap' : 'notice'}`, facts: { event: name }, body: data, cells: cells(at, '', name, '', summary) };
}

/** The full body is only laid out when somebody opens it. */
function open(details) {
  const record = records.get(details.parentElement);
  if (!record || details.childElementCount > 1) return;
  const terms = Object.entries(record.facts).filter(([, value]) => value)
    .map(([term, value]) => element('div', '', [element('dt', '', term), element('dd', '', value)]));
  details.append(element('div', 'full', [element('dl', '', terms), ...(record.body === undefined ? [] : [laidOut(record.body)])]));
}

function laidOut(body) {
  const pieces = isJson(body) ? pretty(body) : [['', body]];
  const pre = element('pre', '');
  if (pieces.length > COLOURED_PIECES) pre.textContent = pieces.map(([, text]) => text).join('');
  else pre.append(...pieces.map(([kind, text]) => (kind === '' ? text : element('span', kind, text))));
  return pre;
}

/** The message's own timestamp: AMQP has whole seconds, an ISO text is taken as well. */
function published(time) {
  if (time === null || time === undefined) return '';
  const date = new Date(typeof time === 'number' ? time * 1000 : time);
  return Number.isNaN(date.getTime()) ? String(time) : `${date.toLocaleDateString('sv')} ${clock(date).slice(0, 8)}`;
}

const matches = (record) => record.text.includes($('search').value.trim().toLowerCase());

function clear() {
  list.replaceChildren();
  [pending, dropped, unseen, newest, listed] = [[], 0, 0, 0, 0];
  redraw();
}

function choose() {
  $('events').dataset.source = source();
  clear();
  if (stateName === 'closed') showCurl();
  else connect();
}

function search() {
  for (const item of list.children) item.hidden = !matches(records.get(item));
  redraw();
}

function moveInList(event) {
  const rows = [...list.querySelectorAll('li:not([hidden]) > details > summary')];
  const here = rows.indexOf(document.activeElement);
  const onList = document.activeElement === $('events');
  const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (to === undefined || !(onList || here >= 0) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  if (to < 0) $('events').focus();
  else rows[Math.min(to, rows.length - 1)]?.focus();
}

// ── Counters ─────────────────────────────────────────────────────────────────────────────────────

function drawCounters() {
  $('count-received').textContent = number(counters.received);
  $('count-bytes').textContent = bytes(counters.bytes);
  $('count-gaps').textContent = number(counters.gaps);
  $('count-missed').textContent = number(counters.missed) + (counters.missedUnknown ? ' + ?' : '');
  $('count-reconnects').textContent = number(counters.reconnects);
  $('count-checkpoints').textContent = number(counters.checkpoints);
  $('last-id').textContent = $('last-id').title = counters.lastId || '–';
  $('count-gaps').classList.toggle('bad', counters.gaps > 0);
  $('count-missed').classList.toggle('bad', counters.gaps > 0);
  drawNames();
}

function drawNames() {
  const chips = $('names');
  const entries = [...counters.names];
  while (chips.childElementCount > entries.length) chips.lastElementChild.remove();
  entries.forEach(([name, count], index) => {
    const chip = chips.children[index]
      ?? chips.appendChild(element('li', '', [element('span', '', ''), element('b', '', '')]));
    chip.firstChild.textContent = name;
    chip.lastChild.textContent = number(count);
  });
}

/** Every second, also in silence: the rate falls by itself. */
function drawRate() {
  const now = second();
  for (const past of perSecond.keys()) if (past < now - 60) perSecond.delete(past);
  const counts = Array.from({ length: 60 }, (_, index) => perSecond.get(now - 60 + index) ?? 0);
  const peak = Math.max(1, ...counts);
  const sum = counts.slice(-10).reduce((total, count) => total + count, 0);
  $('count-rate').textContent = number(sum / 10, 1);
  $('sparkline').setAttribute('d', `M${counts.map((count, index) => `${index} ${(19 - 18 * count / peak).toFixed(1)}`).join('L')}`);
}

// ── Publishing ───────────────────────────────────────────────────────────────────────────────────

/** The body of POST /publish. `data` goes in as it was typed, so that no number is rounded. */
function publishBody() {
  const fields = publishForm.elements;
  const optional = ['type', ...AUDIENCES, 'message_id']
    .map((name) => [name, fields[name].value.trim()]).filter(([, value]) => value !== '');
  const rest = JSON.stringify({ topic: fields.topic.value.trim(), ...Object.fromEntries(optional) });
  const data = isJson(fields.data.value) ? compact(fields.data.value) : fields.data.value.trim();
  return `${rest.slice(0, -1)},"data":${data}}`;
}

/** Says beside each field what is wrong with it, before anything is sent. */
function checkPublish() {
  const { topic, data } = publishForm.elements;
  fieldError(topic, topic.value.trim() === '' ? 'A topic is needed, as in team.7.job.9.status' : '');
  try {
    JSON.parse(data.value);
    fieldError(data, '');
  } catch (error) {
    fieldError(data, data.value.trim() === '' ? 'A JSON value is needed' : `Not valid JSON: ${error.message}`);
  }
  return publishForm.querySelector('[aria-invalid]');
}

async function publish() {
  for (const field of publishForm.elements) if (field.name) fieldError(field, '');
  const wrong = checkPublish();
  if (wrong) {
    publishResult('bad', '');
    wrong.focus();
    return;
  }
  publishResult('', 'publishing …');
  const started = performance.now();
  try {
    const headers = { 'content-type': 'application/json' };
    const response = await fetch('publish', { method: 'POST', headers, body: publishBody() });
    if (response.status === 202) {
      publishResult('good', `published and confirmed, ${clock(new Date())}, ${Math.round(performance.now() - started)} ms`);
    } else {
      showProblem(await problem(response));
    }
  } catch (error) {
    publishResult('bad', `not published: the server cannot be reached (${error.message})`);
  }
}

/** Beside the field that the detail begins with or quotes; beside the button where it names none. */
function showProblem(reason) {
  const named = [...publishForm.elements].find(({ name }) => name && new RegExp(`(^|[\`'"“])${name}\\b`).test(reason.detail ?? ''));
  if (named) fieldError(named, reason.detail);
  publishResult('bad', `not published: ${named ? reason.title : sentence(reason)}`);
}

function publishResult(kind, text) {
  $('publish-result').className = `result ${kind}`;
  $('publish-result').textContent = text;
}

function fieldError(field, message) {
  const id = `${field.form.id}-${field.name}-error`;
  const shown = $(id);
  const described = (field.getAttribute('aria-describedby') ?? '').split(' ').filter((other) => other && other !== id);
  if (message === '') {
    shown?.remove();
    field.removeAttribute('aria-invalid');
  } else {
    if (shown) shown.textContent = message;
    else field.closest('label').after(Object.assign(element('p', 'error', message), { id }));
    field.setAttribute('aria-invalid', 'true');
    described.push(id);
  }
  if (described.length > 0) field.setAttribute('aria-describedby', described.join(' '));
  else field.removeAttribute('aria-describedby');
}

// ── curl ─────────────────────────────────────────────────────────────────────────────────────────

/** One word for a POSIX shell. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function showCurl() {
  if (DEV) $('publish-curl').textContent = `curl -sS ${address('publish')} -H 'Content-Type: application/json' --data-raw ${quoted(publishBody())}`;
  let wanted;
  try {
    wanted = query().toString();
    fieldError(connectForm.elements.attributes, '');
  } catch {
    return; // half a filter: the last whole line stays
  }
  const asked = wanted && `?${wanted}`;
  const resume = lastEventId() === '' ? '' : ` -H ${quoted(`Last-Event-ID: ${lastEventId()}`)}`;
  // The admin listener does not know where clients connect, nor with which token.
  $('connect-curl').textContent = DEV
    ? `curl -sSN${resume} ${quoted(address(`${source()}${asked}`))}`
    : `curl -sSN -H "Authorization: Bearer $TOKEN" "$BRIDGE"${quoted(`/events${asked}`)}`;
  $('apply').classList.toggle('primary', stateName !== 'closed' && wanted !== applied);
}

const address = (path) => new URL(path, location.href).href;

async function copy(button) {
  const source = $(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = 'Copied';
    $('announcement').textContent = 'Copied';
  } catch { // no permission: mark it, so that Ctrl+C is all that is left to do
    getSelection().selectAllChildren(source);
    button.textContent = 'Ctrl+C';
  }
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
}

// ── Small things ─────────────────────────────────────────────────────────────────────────────────

function element(tag, className, content = []) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...(Array.isArray(content) ? content : [content]));
  return made;
}

// ── Wiring ───────────────────────────────────────────────────────────────────────────────────────

connectForm.addEventListener('submit', (event) => { event.preventDefault(); connect(); });
connectForm.addEventListener('input', showCurl);
$('toggle').addEventListener('click', () => (stateName === 'closed' ? connect() : disconnect()));
$('search').addEventListener('input', search);
$('pause').addEventListener('click', () => {
  paused = !paused;
  $('pause').setAttribute('aria-pressed', String(paused));
  redraw();
});
$('clear').addEventListener('click', clear);
list.addEventListener('toggle', ({ target }) => { if (target.open) open(target); }, true);
$('events').addEventListener('keydown', moveInList);
document.addEventListener('click', ({ target }) => {
  if (target.dataset.copy) copy(target);
  if (target.matches('.fold')) { // seen only where there is one column
    target.setAttribute('aria-expanded', String(target.getAttribute('aria-expanded') !== 'true'));
  }
});

if (DEV) {
  $('source').addEventListener('change', choose);
  $('reset').addEventListener('click', resetCounters);
  publishForm.addEventListener('submit', (event) => { event.preventDefault(); publish(); });
  publishForm.addEventListener('input', ({ target }) => {
    if (target.hasAttribute('aria-invalid')) fieldError(target, '');
    showCurl();
  });
  publishForm.elements.data.addEventListener('change', checkPublish);
  publishForm.elements.data.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) publishForm.requestSubmit();
  });
  drawRate();
  setInterval(drawRate, 1000);
} else {
  $('host').textContent = `${location.host},`;
  document.title = `sse-bridge ${location.host}`;
}

restoreFilters(new URLSearchParams(location.hash.slice(1)));
resetCounters();
$('events').dataset.source = source();
watchVitals();
connect();
