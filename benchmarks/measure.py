"""Fair comparisons on a machine that runs other programs too: interleaved rounds, medians, ratios within a round.

The variants take turns every few steps. If other programs slow the machine for a while, they slow all variants equally.
If they slow the machine for one step, the median does not change.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

Runner = Callable[[Sequence[float]], list[float]]
"""Runs one step at every given point (a progress or a scale). Returns the seconds of every step, or of every phase."""


def progress_grid(points: int) -> list[float]:
    """The middles of `points` equal parts of an epoch. The mean step at these points is the mean step of the epoch."""
    return [(point + 0.5) / points for point in range(points)]


def blocks(grid: Sequence[T], size: int) -> list[list[T]]:
    """Cut the grid into blocks of `size` neighbours. The last block may be shorter."""
    return [list(grid[start : start + size]) for start in range(0, len(grid), size)]


def turns(names: Sequence[str], grid: Sequence[float], size: int, turn: int = 0) -> Iterator[tuple[str, list[float]]]:
    """The order of one round: which variant runs which points.

    Variants A, B and C run the first block in the order A, B, C, the second block in the order B, C, A, and so on. The
    order changes, so that no variant is always the first.

    Args:
        names: the names of the variants.
        grid: the points.
        size: the number of points per block.
        turn: the number of the round; the variant with this index begins.
    """
    for index, block in enumerate(blocks(grid, size)):
        shift = (turn + index) % len(names)
        for name in (*names[shift:], *names[:shift]):
            yield name, block


@dataclass
class Timings:
    """The measured times.

    Attributes:
        grid: the points.
        seconds: for every variant, for every round, the seconds at every point.
    """

    grid: list[float]
    seconds: dict[str, list[list[float]]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """The number of complete rounds."""
        return min(len(rounds) for rounds in self.seconds.values())

    def all(self, name: str) -> list[float]:
        """The seconds of every step of a variant."""
        return [step for steps in self.seconds[name] for step in steps]

    def at(self, name: str, point: int) -> list[float]:
        """The seconds of a variant at one point of the grid, one number per round."""
        return [steps[point] for steps in self.seconds[name]]

    def epoch(self, name: str) -> float:
        """The mean step over the epoch: the median over rounds at every point, averaged over the points."""
        return statistics.fmean(statistics.median(self.at(name, point)) for point in range(len(self.grid)))

    def ratios(self, name: str, other: str) -> list[float]:
        """The mean step of `name` divided by the mean step of `other`, one ratio per round."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return [statistics.fmean(steps) / statistics.fmean(other_steps) for steps, other_steps in pairs]


def phases(timings: Timings, names: Sequence[str]) -> tuple[Timings, dict[str, Timings]]:
    """Split the timings of phases.

    Args:
        timings: the timings of runners that return the seconds of every phase of every step.
        names: the names of the phases.

    Returns:
        The timings of whole steps, and the timings of every phase.
    """
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
    """Run rounds in which the variants take turns, until another round would not fit into the time.

    Args:
        runners: the variants by name.
        grid: the points.
        block: the number of points that a variant runs before the next variant has its turn.
        seconds: the time.
        least: the least number of rounds, even if they take longer.
        most: the largest number of rounds.
        clock: gives the time in seconds.
    """
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
    """The 20th, 50th and 80th percentile, interpolated linearly.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("values: expected at least one, got none")
    ordered = sorted(values)
    return {f"p{percent}": _quantile(ordered, percent / 100) for percent in (20, 50, 80)}


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
