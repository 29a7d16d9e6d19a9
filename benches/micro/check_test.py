"""The check finds what was planted and nothing else."""

import math
import os
import random
import unittest

import check
from check import ROUNDS, Figures, compare, correct, rank_sum, read_table

SEED = int(os.environ.get("CHECK_SEED", random.randrange(2**32)))
BENCHMARKS = 80
TRIALS = 100
THRESHOLD = 0.05


class Machine:
    """Every figure wavers by 1 %, one run in ten is disturbed by a fourth or so, and the machine slows down meanwhile:
    by 3 %, unless it is told otherwise."""

    def __init__(self, chance, drift=0.03):
        self.chance = chance
        self.drift = drift

    def measure(self, slower):
        """All figures of both builds, with `slower` as the true ratios of the second build, by benchmark."""
        base, here = {}, {}
        for number in range(BENCHMARKS):
            true = 10 ** self.chance.uniform(2, 5)
            name = f"b{number}"
            sides = [[], []]
            for run in range(2 * ROUNDS):
                side = (0, 1, 1, 0)[run % 4]
                drift = 1 + self.drift * run / (2 * ROUNDS)
                disturbed = 1 + self.chance.expovariate(4) * (self.chance.random() < 0.1)
                ratio = slower.get(name, 1) if side == 1 else 1
                noise = math.exp(self.chance.gauss(0, 0.01))
                sides[side].append(true * ratio * drift * disturbed * noise)
            base[name], here[name] = Figures(sides[0]), Figures(sides[1])
        return base, here

    def found(self, slower):
        findings = compare(*self.measure(slower))
        return [each.name for each in findings if each.is_slower(THRESHOLD)]


class Planted(unittest.TestCase):
    def setUp(self):
        print(f"CHECK_SEED={SEED}")
        self.machine = Machine(random.Random(SEED))

    def test_a_slowdown_of_ten_percent_is_found(self):
        found = sum("b7" in self.machine.found({"b7": 1.10}) for _ in range(TRIALS))
        self.assertGreaterEqual(found, 0.75 * TRIALS)

    def test_pure_noise_is_not_found(self):
        alarms = sum(bool(self.machine.found({})) for _ in range(TRIALS))
        self.assertLessEqual(alarms, 0.1 * TRIALS)

    def test_a_machine_that_slows_down_by_a_fifth_raises_no_alarm(self):
        self.machine.drift = 0.2
        alarms = sum(bool(self.machine.found({})) for _ in range(TRIALS))
        self.assertLessEqual(alarms, 0.1 * TRIALS)

    def test_what_became_faster_fails_nothing_and_is_told(self):
        findings = {each.name: each for each in compare(*self.machine.measure({"b7": 0.7}))}
        self.assertEqual(findings["b7"].verdict(THRESHOLD), "FASTER")
        self.assertFalse(findings["b7"].is_slower(THRESHOLD))

    def test_what_is_below_the_threshold_is_told_and_fails_nothing(self):
        base = {"b": Figures([100.0 + step / 10 for step in range(ROUNDS)])}
        here = {"b": Figures([103.0 + step / 10 for step in range(ROUNDS)])}
        (finding,) = compare(base, here)
        self.assertEqual(finding.verdict(THRESHOLD), "slower")
        self.assertFalse(finding.is_slower(THRESHOLD))

    def test_a_few_nanoseconds_fail_nothing(self):
        base = {"b": Figures([10.0 + step / 100 for step in range(ROUNDS)])}
        here = {"b": Figures([14.0 + step / 100 for step in range(ROUNDS)])}
        (finding,) = compare(base, here)
        self.assertEqual(finding.verdict(THRESHOLD), "slower")
        self.assertFalse(finding.is_slower(THRESHOLD))


class Chances(unittest.TestCase):
    def test_the_chance_of_an_uneven_deal_is_counted_exactly(self):
        # Of the 20 ways of dealing 3 of 6 out, one on each end is as uneven as this.
        self.assertAlmostEqual(rank_sum([1, 2, 3], [4, 5, 6]), 2 / 20)
        self.assertAlmostEqual(rank_sum([4, 5, 6], [1, 2, 3]), 2 / 20)
        # And 4 of them as uneven as this.
        self.assertAlmostEqual(rank_sum([1, 2, 4], [3, 5, 6]), 4 / 20)

    def test_equal_figures_share_their_ranks(self):
        self.assertEqual(check.twice_the_ranks([5, 1, 5, 9]), [5, 2, 5, 8])
        self.assertEqual(rank_sum([1, 1, 1], [1, 1, 1]), 1)

    def test_noise_is_taken_for_a_difference_as_often_as_it_is_said_to_be(self):
        chance = random.Random(SEED)
        chances = [
            rank_sum([chance.random() for _ in range(8)], [chance.random() for _ in range(8)]) for _ in range(1000)
        ]
        share = sum(each < 0.05 for each in chances) / len(chances)
        self.assertLess(share, 0.08, f"CHECK_SEED={SEED}")
        self.assertGreater(share, 0.02, f"CHECK_SEED={SEED}")

    def test_many_chances_are_corrected_together(self):
        corrected = correct([0.01, 0.04, 0.03, 0.005])
        for known, expected in zip(corrected, [0.02, 0.04, 0.04, 0.02]):
            self.assertAlmostEqual(known, expected)


# As divan 0.1.21 prints it.
TABLE = """\
Timer precision: 20 ns
micro                     fastest       │ slowest       │ median        │ mean          │ samples │ iters
├─ address                              │               │               │               │         │
│  ├─ broadcast           74.56 ns      │ 459.4 ns      │ 77.8 ns       │ 81.44 ns      │ 1723    │ 441088
│  ├─ by_field                          │               │               │               │         │
│  │  ├─ 200              334.9 ns      │ 371.5 µs      │ 349.3 ns      │ 963.8 ns      │ 788     │ 50432
│  │  │                   2.4 GB/s      │ 1.2 GB/s      │ 2.2 GB/s      │ 1.9 GB/s      │         │
│  │  │                   max alloc:    │               │               │               │         │
│  │  │                     1.015       │ 1.015         │ 1.015         │ 1.015         │         │
│  │  │                     24.6 B      │ 24.6 B        │ 24.6 B        │ 24.6 B        │         │
│  │  │                   alloc:        │               │               │               │         │
│  │  │                     3           │ 3             │ 2.5           │ 3             │         │
│  │  │                     71 B        │ 71 B          │ 1.371 KB      │ 71 B          │         │
│  │  │                   dealloc:      │               │               │               │         │
│  │  │                     2           │ 2             │ 2             │ 2             │         │
│  │  │                     47 B        │ 47 B          │ 47 B          │ 47 B          │         │
│  │  ╰─ 16384            23.47 µs      │ 401.4 µs      │ 25.11 µs      │ 35.99 µs      │ 100     │ 6400
│  ╰─ refused             205.3 ns      │ 64.22 µs      │ 1.228 ms      │ 282 ns        │ 2663    │ 170432
╰─ resume                               │               │               │               │         │
   ╰─ leave                             │               │               │               │         │
      ├─ a key: 1         287.6 ns      │ 38.02 µs      │ 290.2 ns      │ 330.3 ns      │ 1034    │ 66176
      │                   dealloc:      │               │               │               │         │
      │                     6.078       │ 6.078         │ 6.078         │ 6.078         │         │
      │                     389.7 B     │ 389.7 B       │ 389.7 B       │ 389.7 B       │         │
      ╰─ 10               842.2 ns      │ 1.313 µs      │ 899.6 ns      │ 902.3 ns      │ 388     │ 24832
                          alloc:        │               │               │               │         │
                            15.21       │ 15.21         │ 15.21         │ 15.21         │         │
                            12 B        │ 12 B          │ 12 B          │ 12 B          │         │
"""


class Table(unittest.TestCase):
    def test_figures_and_allocations_are_read_by_the_path_of_their_benchmark(self):
        read = {name: (*each.nanoseconds, *each.allocations, *each.bytes) for name, each in read_table(TABLE).items()}
        expected = {
            "address::broadcast": (77.8, 0, 0),
            "address::by_field::200": (349.3, 2.5, 1371),
            "address::by_field::16384": (25_110, 0, 0),
            "address::refused": (1_228_000, 0, 0),
            "resume::leave::a key: 1": (290.2, 0, 0),
            "resume::leave::10": (899.6, 15.21, 12),
        }
        self.assertEqual(read, expected)


if __name__ == "__main__":
    unittest.main()
