// What the console's charts decide: where a line is broken, and where the scale ends.

import assert from 'node:assert/strict';
import test from 'node:test';
import { roundUp, strokes } from '../../src/http/console/chart.js';

const points = (...pairs) => pairs.map(([at, value]) => ({ at, values: [value] }));

test('the scale ends at the next of 1, 2, 5, 10', () => {
  const ends = [[0, 0], [-1, 0], [0.0004, 0.0005], [1, 1], [1.2, 2], [2, 2], [4.9, 5], [50, 50], [51, 100], [1e6, 1e6]];
  for (const [value, end] of ends) assert.ok(Math.abs(roundUp(value) - end) < 1e-12, `${value}: ${roundUp(value)}`);
});

test('a line goes through what is known and is broken where nobody knows', () => {
  const runs = strokes(points([0, 1], [1, 2], [2, null], [3, 3], [20, 4], [21, 5]), 0);
  assert.deepEqual(runs.map((run) => run.map(({ value }) => value)), [[1, 2, 3], [4, 5]]);
});

test('a point that stands alone can be seen', () => {
  assert.deepEqual(strokes(points([10, 7]), 0), [[{ at: 9, value: 7 }, { at: 10, value: 7 }]]);
  assert.deepEqual(strokes(points([10, null]), 0), []);
});
