// What the console makes of GET /metrics.

import assert from 'node:assert/strict';
import test from 'node:test';
import { Sample, quantile, rate, rise } from '../../src/http/console/prometheus.js';

const TEXT = `# HELP events_total Events, by "kind" {and} more.
# TYPE events_total counter
events_total{kind="a b",why="say \\"}\\" \\\\ \\n"} 3
events_total{kind="c"} 4 1700000000000
up 1
empty{} 2
lag_seconds 1.5e-3
limit +Inf
none NaN
delay_bucket{le="0.1"} 1
delay_bucket{le="+Inf"} 5
delay_bucket{le="0.01"} 0

this is no series
`;

test('series are read with their labels, comments and what is no series are left out', () => {
  const sample = new Sample(TEXT, 0);
  assert.deepEqual(sample.by('events_total', 'kind'), new Map([['a b', 3], ['c', 4]]));
  assert.equal(sample.label('events_total', 'why'), 'say "}" \\ \n');
  assert.equal(sample.sum('events_total'), 7);
  assert.deepEqual(['up', 'empty', 'lag_seconds', 'limit'].map((name) => sample.sum(name)), [1, 2, 0.0015, Infinity]);
  assert.ok(Number.isNaN(sample.sum('none')));
  assert.equal(sample.sum('this'), null);
  assert.equal(sample.label('up', 'kind') ?? null, null);
});

test('buckets come in order', () => {
  assert.deepEqual(new Sample(TEXT, 0).buckets('delay'), [[0.01, 0], [0.1, 1], [Infinity, 5]]);
});

const counted = (at, ...values) => new Sample(values.map((value, index) => `n_total{of="${index}"} ${value}`).join('\n'), at);

test('a rate is the rise of all its counters over the time between', () => {
  assert.equal(rate(counted(10, 5, 1), counted(12, 9, 2), 'n_total'), 2.5);
  assert.equal(rise(counted(10, 5, 1), counted(12, 9, 2), 'n_total'), 5);
});

test('a counter that fell began anew', () => {
  assert.equal(rise(counted(0, 100), counted(1, 7), 'n_total'), 7);
});

test('there is no rate where there is no time, and none of what is not there', () => {
  const sample = counted(3, 1);
  assert.equal(rate(sample, sample, 'n_total'), null);
  assert.equal(rate(counted(3, 1), counted(4, 2), 'other_total'), null);
});

const BOUNDS = ['0.001', '0.01', '0.1', '+Inf'];
const observed = (...counts) => new Sample(counts.map((count, index) => `d_bucket{le="${BOUNDS[index]}"} ${count}`).join('\n'), 0);

test('a quantile lies on a straight line inside the bucket that it falls into', () => {
  const [before, after] = [observed(10, 10, 10, 10), observed(60, 110, 110, 110)];
  assert.equal(quantile(before, after, 'd', 0.5), 0.001);
  assert.equal(quantile(before, after, 'd', 0.25), 0.0005);
  assert.ok(Math.abs(quantile(before, after, 'd', 0.75) - 0.0055) < 1e-12);
});

test('a quantile beyond the last bound is that bound', () => {
  assert.equal(quantile(observed(0, 0, 0, 0), observed(0, 0, 1, 10), 'd', 0.99), 0.1);
});

test('a quantile of nothing is none', () => {
  assert.equal(quantile(observed(1, 2, 3, 4), observed(1, 2, 3, 4), 'd', 0.5), null);
  assert.equal(quantile(counted(0, 1), counted(1, 2), 'd', 0.5), null);
});

test('a histogram that fell began anew', () => {
  assert.equal(quantile(observed(0, 50, 50, 50), observed(2, 2, 2, 2), 'd', 1), 0.001);
});
