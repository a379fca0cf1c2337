"""Fair comparison on a machine that does other things too: interleaved rounds, medians, ratios within a round.

Whatever slows the machine for a while slows all variants alike, because they take turns every few steps; what slows it
for one step does not move a median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

Runner = Callable[[Sequence[float]], list[float]]
"""Runs one step at every point it is given (of progress, of scale); returns the seconds of each, or of each phase."""


def progress_grid(points: int) -> list[float]:
    """The middles of `points` equal parts of an epoch: their mean is the mean over a linearly annealed epoch."""
    return [(point + 0.5) / points for point in range(points)]


def blocks(grid: Sequence[T], size: int) -> list[list[T]]:
    """The grid cut into runs of `size` neighbours, the last one maybe shorter."""
    return [list(grid[start : start + size]) for start in range(0, len(grid), size)]


def turns(names: Sequence[str], grid: Sequence[float], size: int, turn: int = 0) -> Iterator[tuple[str, list[float]]]:
    """Who runs which points in one round: A, B, C on the first block, then B, C, A on the next.

    The first of them changes from block to block, so that nobody always runs behind the same neighbour.
    """
    for index, block in enumerate(blocks(grid, size)):
        shift = (turn + index) % len(names)
        for name in (*names[shift:], *names[:shift]):
            yield name, block


@dataclass
class Timings:
    """Seconds by variant, round and point of the grid."""

    grid: list[float]
    seconds: dict[str, list[list[float]]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return min(len(rounds) for rounds in self.seconds.values())

    def all(self, name: str) -> list[float]:
        """Every step of a variant."""
        return [step for steps in self.seconds[name] for step in steps]

    def at(self, name: str, point: int) -> list[float]:
        """The steps of a variant at one point of the grid, one a round."""
        return [steps[point] for steps in self.seconds[name]]

    def epoch(self, name: str) -> float:
        """The mean step over the epoch: the mean over its points of the median over rounds."""
        return statistics.fmean(statistics.median(self.at(name, point)) for point in range(len(self.grid)))

    def ratios(self, name: str, other: str) -> list[float]:
        """Mean step of `name` / mean step of `other`, one a round."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return [statistics.fmean(mine) / statistics.fmean(theirs) for mine, theirs in pairs]


def phases(timings: Timings, names: Sequence[str]) -> tuple[Timings, dict[str, Timings]]:
    """The timings of whole steps and of every phase, from those of runners that return all phases of every step."""
    count = len(names)
    whole, parts = Timings(timings.grid), {name: Timings(timings.grid) for name in names}
    for variant, rounds in timings.seconds.items():
        whole.seconds[variant] = [[sum(step) for step in blocks(steps, count)] for steps in rounds]
        for index, name in enumerate(names):
            parts[name].seconds[variant] = [steps[index::count] for steps in rounds]
    return whole, parts


def interleave(
    runners: Mapping[str, Runner],
    grid: Sequence[float],
    *,
    block: int,
    seconds: float,
    least: int = 3,
    most: int = 12,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Run rounds until another one would not fit into `seconds`: at least `least` rounds, at most `most`."""
    timings = Timings(list(grid), {name: [] for name in runners})
    start = clock()
    for turn in range(most):
        spent = clock() - start
        if turn >= least and spent * (turn + 1) / turn > seconds:
            break
        round_: dict[str, list[float]] = {name: [] for name in runners}
        for name, points in turns(list(runners), grid, block, turn):
            round_[name] += runners[name](points)
        for name, steps in round_.items():
            timings.seconds[name].append(steps)
    return timings


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile, linear between neighbours."""
    if not values:
        raise ValueError("values: expected at least one, got none")
    ordered = sorted(values)
    return {f"p{percent}": _quantile(ordered, percent / 100) for percent in (20, 50, 80)}


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
