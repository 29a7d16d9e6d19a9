// A line over the last two minutes, as SVG. Knows nothing of what it shows; keeps no more than it shows.

export const SPAN = 120; // seconds
const GAP = 3.5; // with no point for longer the line is broken: nobody knows what was there
const [WIDTH, HEIGHT] = [SPAN, 32];

export class Chart {
  #svg;
  #points = []; // {at, values}, the newest last
  #pointed = null; // where in the span somebody points, from 0 to 1

  /** `svg` holds an `.area`, a `.pointer` and a `.line` for each value of a point. */
  constructor(svg, onPoint) {
    this.#svg = svg;
    svg.addEventListener('pointermove', ({ offsetX }) => this.#point(offsetX / svg.clientWidth, onPoint));
    svg.addEventListener('pointerleave', () => this.#point(null, onPoint));
  }

  #point(where, onPoint) {
    this.#pointed = where;
    onPoint();
  }

  /** A value may be null: there is none. */
  add(at, values) {
    this.#points.push({ at, values });
    while (this.#points[0].at < at - SPAN - GAP) this.#points.shift();
  }

  /** The newest point, or the one that is pointed at, with how many seconds ago it was. */
  shown() {
    const now = this.#points.at(-1)?.at ?? 0;
    if (this.#pointed === null) return { ago: 0, values: this.#points.at(-1)?.values ?? [] };
    const at = now - SPAN * (1 - this.#pointed);
    const nearest = this.#points.reduce((best, point) => (Math.abs(point.at - at) < Math.abs(best.at - at) ? point : best));
    const known = Math.abs(nearest.at - at) <= GAP;
    return { ago: known ? now - nearest.at : now - at, values: known ? nearest.values : [] };
  }

  /** Draws all, and returns what its upper edge stands for. `least` is the least that may be. */
  draw(least) {
    const now = this.#points.at(-1)?.at ?? 0;
    const top = Math.max(least, roundUp(Math.max(0, ...this.#points.flatMap(({ values }) => values))));
    const x = (at) => WIDTH - (now - at);
    const y = (value) => HEIGHT - 1 - (HEIGHT - 2) * value / top;
    this.#svg.querySelectorAll('.line').forEach((path, index) => {
      path.setAttribute('d', strokes(this.#points, index).map((stroke) => line(stroke, x, y)).join(''));
    });
    this.#svg.querySelector('.area').setAttribute('d', strokes(this.#points, 0)
      .map((stroke) => `${line(stroke, x, y)}V${HEIGHT}H${x(stroke[0].at).toFixed(2)}Z`).join(''));
    const pointer = this.#pointed === null ? '' : `M${(this.#pointed * WIDTH).toFixed(2)} 0V${HEIGHT}`;
    this.#svg.querySelector('.pointer').setAttribute('d', pointer);
    return top;
  }
}

/** Runs of points without a gap. A point that stands alone is drawn as a short stroke. */
export function strokes(points, index) {
  const runs = [];
  let last = -Infinity;
  for (const { at, values } of points) {
    const value = values[index] ?? null;
    if (value === null) continue;
    if (at - last > GAP) runs.push([]);
    runs.at(-1).push({ at, value });
    last = at;
  }
  return runs.map((run) => (run.length > 1 ? run : [{ ...run[0], at: run[0].at - 1 }, run[0]]));
}

const line = (stroke, x, y) => stroke.map(({ at, value }, index) => `${index === 0 ? 'M' : 'L'}${x(at).toFixed(2)} ${y(value).toFixed(2)}`).join('');

/** The next of 1, 2, 5, 10, 20, 50 and so on, so that the scale does not move with every point. */
export function roundUp(value) {
  if (value <= 0) return 0;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * (1 - 1e-9));
}
