"""Part `operation`: single operations, measured in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks import cost
from benchmarks.measure import Runner, interleave, quantiles
from benchmarks.operations import OPERATIONS
from benchmarks.plan import Plan, Row, Workers, milliseconds


def operations(machine: cost.Machine, plan: Plan, running: Workers) -> Iterator[Row]:
    """Measure every operation in all its variants."""
    repeats = [0.0] * 20
    for operation, make in OPERATIONS.items():
        calls = make()
        runners: dict[str, Runner] = {name: repeated(call) for name, call in calls.items()}
        timings = interleave(runners, repeats, block=10, **plan.share(0.003))
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
    """A runner that times one call per point. One call before them is not timed."""

    def run(grid: Sequence[float]) -> list[float]:
        call()
        seconds = []
        for _ in grid:
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return seconds

    return run
