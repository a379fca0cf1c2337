"""The time of the benchmark, its processes, and the entries that all rows have."""

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
    """The time that the benchmark may take.

    Attributes:
        seconds: the time for all timed rounds together.
        least: the least number of rounds of a part, even if they take longer.
        most: the largest number of rounds of a part.
        patience: seconds after the start from which on one round per part is enough, on a slow or busy machine.
        start: the time of the start.
    """

    seconds: float = 450.0
    least: int = 2
    most: int = 15
    patience: float = 600.0
    start: float = field(default_factory=time.perf_counter)

    def share(self, part: float) -> dict[str, Any]:
        """The arguments of `interleave` for measurements that get the share `part` of the time."""
        least = self.least if time.perf_counter() - self.start < self.patience else 1
        return {"seconds": self.seconds * part, "least": least, "most": self.most}


@contextmanager
def workers(names: Mapping[str, str]) -> Iterator[dict[str, Worker]]:
    """Start one process for every name, and end the processes after the `with` block.

    Args:
        names: the variant of every process, by the name of the process.
    """
    started: dict[str, Worker] = {}
    try:
        for name, variant in names.items():
            started[name] = Worker(variant, threads=torch.get_num_threads())
        yield started
    finally:
        for worker in started.values():
            worker.close()


def about(part: str, variant: str, case: Case) -> Row:
    """The entries of a row that tell what was measured."""
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
    """The progress of the epoch at which the annealed scale has the value `scale`."""
    return min(max((scale - 1 / S_MAX) / (S_MAX - 1 / S_MAX), 0.0), 1.0)


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """The quantiles of times, in ms."""
    return quantiles([1e3 * value for value in seconds])
