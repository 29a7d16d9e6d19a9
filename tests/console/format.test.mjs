// Numbers and times as the console shows them.

import assert from 'node:assert/strict';
import test from 'node:test';
import { bytes, clock, duration, number, short } from '../../src/http/console/format.js';

const cases = [
  [number, [[0, '0'], [1234567, '1,234,567']]],
  [short, [
    [0, '0'], [7, '7'], [0.25, '0.25'], [0.999, '1.00'], [2.5, '2.5'], [99.96, '100.0'], [240.4, '240'], [9999, '9,999'],
    [10000, '10.0k'], [48211, '48.2k'], [123456, '123k'], [9999499, '9,999k'], [12e6, '12.0M'], [3e9, '3,000M'], [25e9, '25.0G'], [9e13, '90,000G'],
  ]],
  [bytes, [[0, '0 B'], [1023, '1,023 B'], [1024, '1.0 KiB'], [19283746, '18.4 MiB'], [2 ** 40, '1,024.0 GiB']]],
  [duration, [
    [0, '0.0 ms'], [0.00042, '0.4 ms'], [0.0099, '9.9 ms'], [0.0123, '12 ms'], [0.9994, '999 ms'], [0.9996, '1.0 s'], [1.52, '1.5 s'],
    [12.3, '12 s'], [99.9, '100 s'], [240, '4 min'], [7200, '2 h'],
  ]],
  [clock, [[new Date(2026, 0, 2, 3, 4, 5, 6), '03:04:05.006']]],
];

for (const [format, pairs] of cases) {
  test(`${format.name} is written as it is read`, () => {
    assert.deepEqual(pairs.map(([value]) => format(value)), pairs.map(([, text]) => text));
  });
}
