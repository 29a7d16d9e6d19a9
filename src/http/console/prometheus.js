// What GET /metrics says (Prometheus text exposition format 0.0.4), and what is made of two such
// answers: rates, and quantiles of a histogram. Pure.

const SERIES = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { n: '\n', '"': '"', '\\': '\\' };
const VALUES = { '+Inf': Infinity, Inf: Infinity, '-Inf': -Infinity };

/** One answer, and when it came. */
export class Sample {
  #series = new Map(); // name → [{labels, value}]

  constructor(text, at) {
    this.at = at; // seconds, by any clock that does not jump
    for (const line of text.split('\n')) {
      if (line.startsWith('#')) continue;
      const [, name, labels, value] = SERIES.exec(line) ?? [];
      if (name === undefined) continue;
      if (!this.#series.has(name)) this.#series.set(name, []);
      this.#series.get(name).push({ labels: labelsOf(labels ?? ''), value: VALUES[value] ?? Number(value) });
    }
  }

  /** The sum over all labels; null where there is no such series. */
  sum(name) {
    const found = this.#series.get(name);
    return found ? found.reduce((total, { value }) => total + value, 0) : null;
  }

  /** Value of a label → value. */
  by(name, label) {
    return new Map((this.#series.get(name) ?? []).map(({ labels, value }) => [labels[label], value]));
  }

  /** A label's value of the first series of this name. */
  label(name, label) {
    return this.#series.get(name)?.[0]?.labels[label] ?? null;
  }

  /** The cumulative buckets of a histogram, as `[upper bound, count]`, in order. */
  buckets(name) {
    return [...this.by(`${name}_bucket`, 'le')]
      .map(([bound, count]) => [VALUES[bound] ?? Number(bound), count]).sort(([one], [other]) => one - other);
  }
}

function labelsOf(text) {
  return Object.fromEntries([...text.matchAll(LABEL)]
    .map(([, name, value]) => [name, value.replace(/\\(.)/g, (_, letter) => ESCAPES[letter] ?? letter)]));
}

/** How much a counter rose. One that fell began anew with its process. */
export function rise(before, after, name) {
  const [from, to] = [before.sum(name), after.sum(name)];
  if (from === null || to === null) return null;
  return to < from ? to : to - from;
}

/** The same for each second. */
export function rate(before, after, name) {
  const risen = rise(before, after, name);
  return risen === null || after.at <= before.at ? null : risen / (after.at - before.at);
}

/**
 * The value below which a part `q` of what was observed between two answers lies, as Prometheus'
 * histogram_quantile finds it: by a straight line inside a bucket. Null where nothing was observed.
 */
export function quantile(before, after, name, q) {
  const earlier = new Map(before.buckets(name));
  const now = after.buckets(name);
  const began = now.some(([bound, count]) => count < (earlier.get(bound) ?? 0));
  const buckets = now.map(([bound, count]) => [bound, began ? count : count - (earlier.get(bound) ?? 0)]);
  const rank = q * (buckets.at(-1)?.[1] ?? 0);
  if (rank === 0) return null;
  let [low, below] = [0, 0];
  for (const [bound, count] of buckets) {
    if (count >= rank) return bound === Infinity ? low : low + (bound - low) * (rank - below) / (count - below);
    [low, below] = [bound, count];
  }
  return null;
}
