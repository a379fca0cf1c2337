"""How long everything may take, the processes that do it, and what all rows have in common."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.bench import Case
from benchmarks.measure import quantiles
from benchmarks.variants import VARIANTS
from benchmarks.worker import Worker
from benchmarks.workload import S_MAX

Row = dict[str, Any]
Workers = Mapping[str, Worker]


@dataclass(frozen=True)
class Plan:
    """How long everything may take.

    Attributes:
        seconds: for all timed rounds together.
        least, most: rounds of a part, whatever it takes.
        patience: seconds from the start after which one round has to do, on a slow or busy machine.
        start: of the clock.
    """

    seconds: float = 450.0
    least: int = 2
    most: int = 15
    patience: float = 600.0
    start: float = field(default_factory=time.perf_counter)

    def share(self, part: float) -> dict[str, Any]:
        """The arguments of `interleave` for a part that gets this share of the time."""
        least = self.least if time.perf_counter() - self.start < self.patience else 1
        return {"seconds": self.seconds * part, "least": least, "most": self.most}


@contextmanager
def workers(names: Mapping[str, str]) -> Iterator[dict[str, Worker]]:
    """One process for every name, of the variant it stands for, alive for the `with` block."""
    started: dict[str, Worker] = {}
    try:
        for name, variant in names.items():
            started[name] = Worker(variant, threads=torch.get_num_threads())
        yield started
    finally:
        for worker in started.values():
            worker.close()


def about(part: str, variant: str, case: Case) -> Row:
    """What was measured, of one variant."""
    return {
        "part": part,
        "variant": variant,
        "flush": VARIANTS[variant].flush,
        "network": str(case.network),
        "batch": case.batch,
        "dtype": "float32",
        "locked": case.locked,
    }


def progress(scale: float) -> float:
    """Where in an epoch the annealed scale has this value."""
    return min(max((scale - 1 / S_MAX) / (S_MAX - 1 / S_MAX), 0.0), 1.0)


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return quantiles([1e3 * value for value in seconds])
