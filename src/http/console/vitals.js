// How the process is doing: GET /metrics once a second, as charts and figures. While the page is
// hidden nothing is asked.

import { Chart, SPAN } from './chart.js';
import { bytes, duration, number, short } from './format.js';
import { Sample, quantile, rate, rise } from './prometheus.js';

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const RATE_SECONDS = 5; // a rate is that of the last five
const QUANTILE_SECONDS = 10;

const $ = (id) => document.getElementById(id);
const samples = []; // those of the span, the oldest first

/** The newest sample that is at least so old, else the oldest. */
const ago = (seconds) => samples.findLast(({ at }) => at <= samples.at(-1).at - seconds + 0.5) ?? samples[0];

// ── Charts ───────────────────────────────────────────────────────────────────────────────────────

const perSecond = (value) => `${short(value)}/s`;

const charts = [
  { id: 'consumed', what: 'Events consumed a second', least: 1, text: perSecond, values: (now) => [rate(ago(RATE_SECONDS), now, 'sse_bridge_events_consumed_total')] },
  { id: 'delivered', what: 'Events delivered a second, one count a client', least: 1, text: perSecond, values: (now) => [rate(ago(RATE_SECONDS), now, 'sse_bridge_events_delivered_total')] },
  {
    id: 'delay', what: 'Delay from consumption to the socket: 99 of 100 are faster, and the median', least: 0.001, text: duration,
    values: (now) => [0.99, 0.5].map((q) => quantile(ago(QUANTILE_SECONDS), now, 'sse_bridge_delivery_seconds', q)),
  },
  { id: 'connections', what: 'Streams open', least: 1, text: short, values: (now) => [now.sum('sse_bridge_connections')] },
];
for (const chart of charts) chart.drawing = new Chart($(`chart-${chart.id}`), () => drawChart(chart));

function drawChart({ id, what, least, text, drawing }) {
  const top = drawing.draw(least);
  const { ago: seconds, values } = drawing.shown();
  const said = values.map((value) => (value === null ? '–' : text(value)));
  $(`now-${id}`).textContent = said[0] ?? '–';
  if (id === 'delay') $('now-median').textContent = said[1] ?? '–';
  $(`top-${id}`).textContent = seconds > 0 ? `${Math.round(seconds)} s ago` : text(top);
  $(`chart-${id}`).setAttribute('aria-label', `${what}, the last two minutes: now ${said.join(', ') || 'unknown'}, the scale ends at ${text(top)}`);
}

// ── Figures ──────────────────────────────────────────────────────────────────────────────────────

/** What a counter counted, by reason, those that are not zero. */
function reasons(now, name, label) {
  const found = [...now.by(name, label)].filter(([, count]) => count > 0).sort(([, one], [, other]) => other - one);
  return found.map(([reason, count]) => `${reason} ${short(count)}`).join(', ');
}

const counter = (name) => (now) => {
  const recent = rise(samples[0], now, name);
  return {
    value: short(now.sum(name)), note: reasons(now, name, 'reason') || 'none',
    recent: recent > 0 ? `+${short(recent)}` : '', state: recent > 0 ? 'bad' : '',
  };
};

const figures = {
  audiences: (now) => ({ value: short(now.sum('sse_bridge_channels')), note: 'in use' }),
  history: (now) => ({ value: short(now.sum('sse_bridge_history_events')), note: `events, ${bytes(now.sum('sse_bridge_history_bytes'))}` }),
  lag: (now) => {
    const lag = now.sum('sse_bridge_event_lag_seconds');
    // It is counted from the producer's timestamp, which not every producer sets.
    return lag > 0 ? { value: duration(lag), note: 'producer to here' } : { value: '–', note: 'no timestamp yet' };
  },
  dropped: counter('sse_bridge_events_dropped_total'),
  gaps: counter('sse_bridge_gaps_total'),
  dead: counter('sse_bridge_dead_letters_total'),
  refused: counter('sse_bridge_connections_refused_total'),
  broker: (now) => {
    const [up, reconnects] = [now.sum('sse_bridge_broker_up') === 1, now.sum('sse_bridge_broker_reconnects_total')];
    const note = reconnects === 1 ? '1 reconnect' : `${number(reconnects)} reconnects`;
    return { value: up ? 'up' : 'away', note, state: up ? 'good' : 'bad' };
  },
};

function drawFigures(now) {
  for (const [id, of] of Object.entries(figures)) {
    const { value, note, recent = '', state = '' } = of(now);
    const cell = $(`figure-${id}`);
    cell.dataset.state = state;
    cell.querySelector('.value').textContent = value;
    cell.querySelector('.recent').textContent = recent;
    cell.querySelector('.note').textContent = cell.title = note;
  }
}

// ── Asking ───────────────────────────────────────────────────────────────────────────────────────

async function ask() {
  try {
    const response = await fetch('metrics', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`.trim());
    take(new Sample(await response.text(), performance.now() / 1000));
    tell('');
  } catch (error) {
    tell(`no figures: ${error.message}`);
  }
}

function take(now) {
  samples.push(now);
  while (samples[0].at < now.at - SPAN) samples.shift();
  for (const chart of charts) {
    chart.drawing.add(now.at, chart.values(now));
    drawChart(chart);
  }
  drawFigures(now);
  $('version').textContent = now.label('sse_bridge_build_info', 'version') ?? '';
}

/** Said once when it begins to fail. */
function tell(trouble) {
  $('vitals').dataset.stale = String(trouble !== '');
  if ($('vitals-trouble').textContent !== trouble) $('vitals-trouble').textContent = trouble;
}

/** Asks from now on, as long as there is a page. */
export async function watchVitals() {
  for (;;) {
    if (!document.hidden) await ask();
    await new Promise((resolve) => { setTimeout(resolve, EVERY_MS); });
  }
}
