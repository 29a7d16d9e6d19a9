#!/usr/bin/env python3
"""Says what became slower since a revision: two builds of the micro-benchmarks, run alternately on this machine.

    make bench-check BASE=<revision>            exit code 1 if something became slower

Each build is run --rounds times, in the order A B B A A B ..., so that a machine that slows down or speeds up meanwhile
does so for both alike. A run is a process of its own, with memory laid out anew, and gives one figure for each benchmark:
the median of its samples.

Whether two sets of figures differ is told by the rank-sum test of Wilcoxon, Mann and Whitney: if the builds were alike,
every way of dealing the figures out to them would be as likely, and the share of those that are as uneven as what was
seen is the chance `p` of being deceived. It is counted exactly, needs no assumption about how noise is distributed, and
a run that was disturbed is only one rank. Drift makes the figures of one build differ among themselves but not from the
other's, which makes the test stricter, never laxer. As many benchmarks are tested at once, each p is corrected as by
Benjamini and Hochberg: of what is reported, at most one in twenty is noise.

A difference that is beyond noise may still mean nothing: code that moves by some bytes is cached and predicted differently,
which is a real change of some percent, or of a few nanoseconds, and nobody's fault. (Seen: 7.4 to 8.2 ns and 60 to 64 ns in
functions that no commit between the builds had touched.) So what is beyond noise is always told, but fails the check only
from --threshold on (5 %), and only where that is more than 5 ns. Allocations are counted, not measured: any change is told.
"""

import argparse
import filecmp
import functools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "target" / "bench-check"
BUILDS = ("base", "here")
# Of what is said to differ, so much may be noise.
ALPHA = 0.05
# What is slower by less may be the place of the code in memory.
LEAST_NANOSECONDS = 5
# Runs of each build. Two of sixteen may be disturbed, and 10 % are found all the same.
ROUNDS = 16


@dataclass
class Figures:
    """What one benchmark gave in each run of one build; allocations and their bytes are those of one operation."""

    nanoseconds: list = field(default_factory=list)
    allocations: list = field(default_factory=list)
    bytes: list = field(default_factory=list)

    def add(self, other):
        self.nanoseconds += other.nanoseconds
        self.allocations += other.allocations
        self.bytes += other.bytes


@dataclass
class Finding:
    """How a benchmark of both builds differs."""

    name: str
    base: Figures
    here: Figures
    p: float = 1.0

    @property
    def ratio(self):
        return median(self.here.nanoseconds) / median(self.base.nanoseconds)

    @property
    def allocates_otherwise(self):
        """Where a buffer grows now and then, the last digit depends on how many operations there were."""
        before, after = self.base, self.here
        return not (
            math.isclose(median(before.allocations), median(after.allocations), abs_tol=0.05)
            and math.isclose(median(before.bytes), median(after.bytes), rel_tol=0.01, abs_tol=1)
        )

    @property
    def is_beyond_noise(self):
        return self.p < ALPHA

    def counts(self, threshold):
        """Whether it is beyond noise, and more than the place of the code in memory makes."""
        difference = median(self.here.nanoseconds) - median(self.base.nanoseconds)
        return self.is_beyond_noise and abs(self.ratio - 1) > threshold and abs(difference) > LEAST_NANOSECONDS

    def is_slower(self, threshold):
        return self.counts(threshold) and self.ratio > 1

    def verdict(self, threshold):
        if not self.is_beyond_noise:
            return "noise"
        word = "slower" if self.ratio > 1 else "faster"
        return word.upper() if self.counts(threshold) else word


def compare(base, here):
    """The findings for all benchmarks that both builds have."""
    names = [name for name in here if name in base]
    findings = [Finding(name, base[name], here[name]) for name in names]
    chances = [rank_sum(each.base.nanoseconds, each.here.nanoseconds) for each in findings]
    for finding, chance in zip(findings, correct(chances)):
        finding.p = chance
    return findings


def rank_sum(first, second):
    """The chance that dealing all figures out at random is as uneven as these two sets are. Exact, ties included."""
    ranks = twice_the_ranks(first + second)
    observed = sum(ranks[: len(first)])
    # Twice the ranks sum up to this on average.
    even = len(first) * (len(ranks) + 1)
    deals = sums_of(tuple(sorted(ranks)), len(first))
    extreme = sum(count for total, count in deals.items() if abs(total - even) >= abs(observed - even))
    return extreme / sum(deals.values())


@functools.cache
def sums_of(ranks, size):
    """In how many ways so many of the ranks sum up to what."""
    ways = [{} for _ in range(size + 1)]
    ways[0][0] = 1
    for rank in ranks:
        for taken in range(size, 0, -1):
            for total, count in ways[taken - 1].items():
                ways[taken][total + rank] = ways[taken].get(total + rank, 0) + count
    return ways[size]


def twice_the_ranks(figures):
    """Equal figures share the middle of their ranks; twice that is a whole number."""
    ordered = sorted(figures)
    below = {figure: ordered.index(figure) for figure in ordered}
    return [2 * below[figure] + ordered.count(figure) + 1 for figure in figures]


def correct(chances):
    """As by Benjamini and Hochberg (1995): each chance times how many there are, over its rank; none above a larger's."""
    corrected = [1.0] * len(chances)
    least = 1.0
    by_size = sorted(range(len(chances)), key=lambda index: chances[index])
    for rank in range(len(chances), 0, -1):
        index = by_size[rank - 1]
        least = min(least, chances[index] * len(chances) / rank)
        corrected[index] = least
    return corrected


TIMES = {"ps": 1e-3, "ns": 1.0, "µs": 1e3, "ms": 1e6, "s": 1e9}
SIZES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}
# A name behind the branches of the tree, and, where the benchmark has figures, the first of them.
BRANCH = re.compile(r"(?P<tree>(?:[│ ]  )*[├╰]─ )(?P<name>.*?)(?:  +\S.*)?")


def read_table(text):
    """The figures of one run, by benchmark, from the table that divan prints."""
    figures, path, rows = {}, [], iter(text.splitlines())
    for row in rows:
        first, median_cell = cells_of(row)
        branch = BRANCH.fullmatch(first)
        if branch:
            path[len(branch["tree"]) // 3 - 1 :] = [branch["name"]]
            if median_cell:
                figures["::".join(path)] = Figures([number(median_cell, TIMES)], [0.0], [0.0])
        elif first.endswith(" alloc:") and not first.endswith("max alloc:"):
            current = figures["::".join(path)]
            current.allocations = [float(cells_of(next(rows))[1])]
            current.bytes = [number(cells_of(next(rows))[1], SIZES)]
    return figures


def cells_of(row):
    """The first cell of a row, with the tree before it, and that of the median. Behind the name there are six: fastest,
    slowest, median, mean, samples, iterations."""
    cells = row.rsplit("│", 5)
    return (cells[0].rstrip(), cells[2].strip()) if len(cells) == 6 else ("", "")


def number(cell, units):
    value, unit = cell.split()
    return float(value) * units[unit]


def run(binary, arguments):
    command = [binary, "--bench", "--color", "never", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures = read_table(done.stdout)
    if not figures:
        sys.exit(f"{binary} has no such benchmark")
    return figures


def alternate(binaries, rounds, arguments):
    """Runs both builds in turn: A B, B A, A B, ..."""
    gathered = {name: {} for name in binaries}
    for number in range(rounds):
        order = list(binaries) if number % 2 == 0 else list(reversed(binaries))
        for build in order:
            for name, figures in run(binaries[build], arguments).items():
                gathered[build].setdefault(name, Figures()).add(figures)
        print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr, flush=True)
    return gathered


def build(revision):
    """Builds the benchmarks of the revision and of this tree, each in a folder of its own: cargo does not tell two trees of
    one package apart by where they are, and would take the binary of the one for that of the other."""
    git = ["git", "-C", ROOT]
    commit = subprocess.run(
        [*git, "rev-parse", "--verify", f"{revision}^{{commit}}"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    tree = FOLDER / "tree"
    if tree.exists():
        subprocess.run(["git", "-C", tree, "checkout", "--quiet", "--detach", "--force", commit], check=True)
    else:
        subprocess.run([*git, "worktree", "prune"], check=True)
        subprocess.run([*git, "worktree", "add", "--quiet", "--force", "--detach", tree, commit], check=True)
    if not (tree / "benches" / "micro").exists():
        sys.exit(f"{revision} has no micro-benchmarks yet")
    for name, folder in zip(BUILDS, (tree, ROOT)):
        command = ["cargo", "bench", "--locked", "--bench", "micro", "--no-run", "--message-format", "json"]
        environment = {**os.environ, "CARGO_TARGET_DIR": str(folder / "target")}
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        # The binary of the bridge is built beside it.
        built = [
            message["executable"]
            for message in map(json.loads, done.stdout.splitlines())
            if message.get("executable") and message["target"]["name"] == "micro"
        ]
        shutil.copy2(built[0], FOLDER / name)
    (FOLDER / "revision").write_text(f"{revision} ({commit[:7]})")


def duration(nanoseconds):
    unit = next(unit for unit in TIMES if nanoseconds < 1000 * TIMES[unit] or unit == "s")
    return f"{nanoseconds / TIMES[unit]:.4g} {unit}"


def report(findings, threshold):
    width = max(len(each.name) for each in findings)
    print(f"{'':{width}}  {'base':>9}  {'here':>9}  {'change':>8}  {'p':>6}  {'':7}  allocations, bytes")
    for each in findings:
        before, after = [duration(median(side.nanoseconds)) for side in (each.base, each.here)]
        sides = [each.base, each.here] if each.allocates_otherwise else [each.here]
        allocations = " -> ".join(f"{median(side.allocations):g}, {median(side.bytes):g}" for side in sides)
        print(
            f"{each.name:{width}}  {before:>9}  {after:>9}  {each.ratio - 1:>+8.1%}  {each.p:6.4f}"
            f"  {each.verdict(threshold):7}  {allocations}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="?", help="what to compare this tree with; none: what was built last")
    parser.add_argument("--build-only", action="store_true", help="build and do not run")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"runs of each build ({ROUNDS})")
    parser.add_argument("--threshold", type=float, default=5, help="from how many percent on slower fails (5)")
    parser.add_argument("--seconds", default="0.03", help="for each benchmark in each run (0.03)")
    parser.add_argument("--filter", default="", help="run only those whose name matches this pattern")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if options.revision:
        build(options.revision)
    if options.build_only:
        return 0
    binaries = {name: FOLDER / name for name in BUILDS}
    arguments = ["--min-time", options.seconds, "--max-time", options.seconds, *filter(None, [options.filter])]
    gathered = alternate(binaries, options.rounds, arguments)
    findings = compare(gathered["base"], gathered["here"])
    threshold = options.threshold / 100
    print(f"base: {(FOLDER / 'revision').read_text().strip()}; {options.rounds} runs of each build")
    if filecmp.cmp(binaries["base"], binaries["here"], shallow=False):
        print("both builds are the same, byte by byte: all that follows is noise")
    report(findings, threshold)
    for name in gathered["here"]:
        if name not in gathered["base"]:
            print(f"new: {name}")
    slower = [each.name for each in findings if each.is_slower(threshold)]
    print(f"slower beyond noise and by more than {options.threshold:g} %: {', '.join(slower) or 'none'}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
