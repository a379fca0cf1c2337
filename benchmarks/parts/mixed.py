"""Part `mixed`: the time to answer for a batch of many tasks or of one task, measured in this process."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import cost
from benchmarks.measure import Runner, interleave, quantiles
from benchmarks.parts.operation import repeated
from benchmarks.plan import Plan, Row, Workers, milliseconds
from benchmarks.serving import TASKS, calls, served
from benchmarks.workload import ALEXNET, MLP

BATCHES = (64, 256)
REPEATS, BLOCK = 6, 2


def mixed(machine: cost.Machine, plan: Plan, running: Workers) -> Iterator[Row]:
    """Measure both networks with 32 finished tasks, batch 64 and 256."""
    for network in (MLP, ALEXNET):
        model = served(network)
        for batch in BATCHES:
            runners: dict[str, Runner] = {n: repeated(call) for n, call in calls(model, network, batch).items()}
            timings = interleave(runners, [0.0] * REPEATS, block=BLOCK, **plan.share(0.02))
            for name in runners:
                yield {
                    "part": "mixed",
                    "variant": name,
                    "flush": True,
                    "operation": f"{network}, batch {batch}, {TASKS} tasks",
                    "network": str(network),
                    "batch": batch,
                    "tasks": TASKS,
                    "dtype": "float32",
                    "rounds": timings.rounds,
                    "ms": milliseconds(timings.all(name)),
                    "ratio_to": {other: quantiles(timings.ratios(name, other)) for other in runners if other != name},
                }
