"""Part `tasks`: step time and memory for several numbers of finished tasks.

A finished task may add memory for its masks and its head. It must not add time.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import cost
from benchmarks.bench import Case
from benchmarks.measure import Runner, Timings, interleave, progress_grid, quantiles
from benchmarks.plan import Plan, Row, Workers, about, milliseconds, workers
from benchmarks.variants import OURS, PLAIN
from benchmarks.workload import MLP

TASKS = (1, 10, 100, 1000)
LOCKED = 0.5  # all tasks use the same units, so that the cases differ only in the number of tasks
POINTS, BLOCK = 8, 4


def many_tasks(machine: cost.Machine, plan: Plan, running: Workers) -> Iterator[Row]:
    """Measure the MLP at batch 64 with 1 to 1000 finished tasks, and plain. Every case has its own process."""
    cases = {f"{OURS} {count}": Case(network=MLP, batch=64, locked=LOCKED, tasks=count) for count in TASKS}
    with workers(dict.fromkeys(cases, OURS)) as started:
        for name, worker in started.items():
            worker.build(cases[name])
        running[PLAIN].build(Case(network=MLP, batch=64))
        runners: dict[str, Runner] = {name: worker.run for name, worker in started.items()}
        runners[PLAIN] = running[PLAIN].run
        timings = interleave(runners, progress_grid(POINTS), block=BLOCK, **plan.share(0.03))
        for name, worker in started.items():
            yield {**row(name, cases[name], timings), **worker.memory()}


def row(name: str, case: Case, timings: Timings) -> Row:
    """The row of one number of tasks, with its ratios to plain and to the smallest number of tasks."""
    first = next(iter(timings.seconds))
    return {
        **about("tasks", OURS, case),
        "tasks": case.tasks,
        "rounds": timings.rounds,
        "ms": milliseconds(timings.all(name)),
        "plain_ms": milliseconds(timings.all(PLAIN)),
        "ratio_to": {PLAIN: quantiles(timings.ratios(name, PLAIN))},
        "ratio_to_first": quantiles(timings.ratios(name, first)),
    }
