"""Part `width`: step time for several widths of the hidden layers.

The cost of calls limits small widths; memory or arithmetic limits large widths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import cost
from benchmarks.bench import Case
from benchmarks.measure import Runner, interleave, progress_grid, quantiles
from benchmarks.plan import Plan, Row, Workers, about, milliseconds
from benchmarks.variants import IN_MATMUL, OURS, PLAIN, TEXTBOOK
from benchmarks.workload import MLP

VARIANTS = (PLAIN, TEXTBOOK, OURS, IN_MATMUL)
WIDTHS = (250, 500, 1000, 2000, 4000, 8000)
LOCKED = (0.0, 0.5)
POINTS = 4


def widths(machine: cost.Machine, plan: Plan, running: Workers) -> Iterator[Row]:
    """Measure the MLP at batch 64, with both hidden layers of one width, and 0 or 50 % of every axis locked."""
    for width in WIDTHS:
        for locked in LOCKED:
            network = replace(MLP, hidden=(width, width))
            yield from cell(Case(network=network, batch=64, locked=locked), machine, plan, running)


def cell(case: Case, machine: cost.Machine, plan: Plan, running: Workers) -> Iterator[Row]:
    """Measure one width and locked share with all variants."""
    for name in VARIANTS:
        running[name].build(case)
    runners: dict[str, Runner] = {name: running[name].run for name in VARIANTS}
    timings = interleave(runners, progress_grid(POINTS), block=POINTS, **plan.share(0.011))
    for name in VARIANTS:
        locked = 0.0 if name == PLAIN else case.locked
        yield {
            **about("width", name, case),
            "width": case.network.hidden[0],
            "rounds": timings.rounds,
            "ms": milliseconds(timings.all(name)),
            "epoch_ms": 1e3 * timings.epoch(name),
            "ratio_to": {other: quantiles(timings.ratios(name, other)) for other in VARIANTS if other != name},
            **cost.count(case.network, case.batch, locked),
            "floor_ms": 1e3 * cost.floor(case.network, case.batch, locked, machine),
        }
