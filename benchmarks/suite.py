"""What is measured: steps over an annealed epoch, steps at one scale, single operations. Each part returns rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks import cost
from benchmarks.measure import Runner, Timings, blocks, interleave, progress_grid, quantiles
from benchmarks.operations import OPERATIONS
from benchmarks.worker import Case, Worker
from benchmarks.workload import ALEXNET, MLP, S_MAX, Network

Row = dict[str, Any]

VARIANTS = {
    "plain": ("plain", True),
    "textbook": ("textbook", False),
    "textbook, flush mode": ("textbook", True),
    "ours": ("ours", True),
    "ours, no flush mode": ("ours", False),
}
"""Kind and flush mode by name. The published code does not set flush mode, nor does `textbook`."""

EPOCH_VARIANTS = ("plain", "textbook", "textbook, flush mode", "ours")
LOCKED = (0.0, 0.5, 0.9)
SCALES = (1 / S_MAX, 0.1, 1.0, 10.0, 30.0, 100.0, 200.0, S_MAX)
POINTS, BLOCK, REPEATS = 12, 4, 3


@dataclass(frozen=True)
class Plan:
    """How long everything may take.

    Attributes:
        seconds: for all timed rounds together.
        least, most: rounds of a part, whatever it takes.
        patience: seconds from the start after which one round has to do, on a slow or busy machine.
        start: of the clock.
    """

    seconds: float = 165.0
    least: int = 2
    most: int = 15
    patience: float = 200.0
    start: float = field(default_factory=time.perf_counter)

    def share(self, part: float) -> dict[str, float | int]:
        """The arguments of `interleave` for a part that gets this share of the time."""
        least = self.least if time.perf_counter() - self.start < self.patience else 1
        return {"seconds": self.seconds * part, "least": least, "most": self.most}


@contextmanager
def workers(names: Sequence[str]) -> Iterator[dict[str, Worker]]:
    """One process a variant, alive for the `with` block."""
    started: dict[str, Worker] = {}
    try:
        for name in names:
            kind, flush = VARIANTS[name]
            started[name] = Worker(kind, flush=flush, threads=torch.get_num_threads())
        yield started
    finally:
        for worker in started.values():
            worker.close()


def epochs(machine: cost.Machine, plan: Plan, running: dict[str, Worker]) -> Iterator[Row]:
    """Steps over an annealed epoch for both networks, batch 64 and 256, 0, 50 and 90 % of every axis locked."""
    cases = [(Case(network=MLP, batch=64), 0.08), (Case(network=MLP, batch=256), 0.075)]
    cases.append((Case(network=ALEXNET, batch=64), 0.085))
    for case, share in cases:
        for locked in LOCKED:
            yield from epoch(replace(case, locked=locked), machine, plan, share, running)


def epoch(case: Case, machine: cost.Machine, plan: Plan, share: float, running: dict[str, Worker]) -> list[Row]:
    """One case under all variants."""
    chosen = {name: running[name] for name in EPOCH_VARIANTS}
    for worker in chosen.values():
        worker.build(case)
    runners: dict[str, Runner] = {name: worker.run for name, worker in chosen.items()}
    timings = interleave(runners, progress_grid(POINTS), block=BLOCK, **plan.share(share))  # type: ignore[arg-type]
    rows = []
    for name in chosen:
        locked = 0.0 if name == "plain" else case.locked
        rows.append(
            {
                "part": "epoch",
                "variant": name,
                "flush": VARIANTS[name][1],
                **shape(case.network, case.batch),
                "locked": case.locked,
                "scale": f"annealed, {POINTS} points of 1/{S_MAX:g} to {S_MAX:g}",
                "rounds": timings.rounds,
                "ms": milliseconds(timings.all(name)),
                "epoch_ms": 1e3 * timings.epoch(name),
                "ratio_to": {other: quantiles(timings.ratios(name, other)) for other in chosen if other != name},
                **cost.count(case.network, case.batch, locked),
                "floor_ms": 1e3 * cost.floor(case.network, case.batch, locked, machine),
            }
        )
    return rows


def scales(machine: cost.Machine, plan: Plan, running: dict[str, Worker]) -> Iterator[Row]:
    """Runs of 3 steps of the MLP at one scale, all from the same state: as a task begins, and after some training."""
    for state, trained, share in (("as a task begins", 0, 0.1), ("after 48 steps", 48, 0.1)):
        case = Case(network=MLP, batch=64, trained=trained, restore=True)
        for worker in running.values():
            worker.build(case)
        runners: dict[str, Runner] = {name: worker.run for name, worker in running.items()}
        grid = [progress(scale) for scale in SCALES for _ in range(REPEATS)]
        timings = interleave(runners, grid, block=REPEATS, **plan.share(share))  # type: ignore[arg-type]
        for name in running:
            yield from scale_rows(name, state, case, timings)


def scale_rows(name: str, state: str, case: Case, timings: Timings) -> Iterator[Row]:
    """One row a scale, with its ratio to scale 1 within the round."""
    by_scale = [blocks(steps, REPEATS) for steps in timings.seconds[name]]
    for point, scale in enumerate(SCALES):
        steps = [step for round_ in by_scale for step in round_[point]]
        pairs = [
            (statistics.median(round_[point]), statistics.median(round_[SCALES.index(1.0)])) for round_ in by_scale
        ]
        yield {
            "part": "scale",
            "variant": name,
            "flush": VARIANTS[name][1],
            **shape(case.network, case.batch),
            "locked": case.locked,
            "scale": scale,
            "state": state,
            "rounds": timings.rounds,
            "ms": milliseconds(steps),
            "ratio_to_scale_1": quantiles([mine / base for mine, base in pairs]),
        }


def operations(machine: cost.Machine, plan: Plan, running: dict[str, Worker]) -> Iterator[Row]:
    """Single operations, in this process."""
    repeats = [0.0] * 20
    for operation, make in OPERATIONS.items():
        calls = make()
        runners: dict[str, Runner] = {name: repeated(call) for name, call in calls.items()}
        timings = interleave(runners, repeats, block=10, **plan.share(0.01))  # type: ignore[arg-type]
        for name in calls:
            yield {
                "part": "operation",
                "variant": name,
                "flush": True,
                "operation": operation,
                "dtype": "float32",
                "rounds": timings.rounds,
                "ms": milliseconds(timings.all(name)),
                "ratio_to": {other: quantiles(timings.ratios(name, other)) for other in calls if other != name},
            }


def repeated(call: Callable[[], object]) -> Runner:
    """Seconds of every call, after one that is not counted."""

    def run(grid: Sequence[float]) -> list[float]:
        call()
        seconds = []
        for _ in grid:
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return seconds

    return run


PARTS = {"epoch": epochs, "scale": scales, "operation": operations}


def progress(scale: float) -> float:
    """Where in an epoch the annealed scale has this value."""
    return min(max((scale - 1 / S_MAX) / (S_MAX - 1 / S_MAX), 0.0), 1.0)


def shape(network: Network, batch: int) -> Row:
    return {"network": str(network), "batch": batch, "dtype": "float32"}


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return quantiles([1e3 * value for value in seconds])
