"""Part `scale`: steps at fixed scales. Subnormal numbers must not make steps at some scales slower."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks import cost
from benchmarks.bench import Case
from benchmarks.measure import Runner, Timings, blocks, interleave, quantiles
from benchmarks.plan import Plan, Row, Workers, about, milliseconds, progress
from benchmarks.variants import FLUSHED, OURS, PLAIN, TEXTBOOK, UNFLUSHED
from benchmarks.workload import MLP, S_MAX

VARIANTS = (PLAIN, TEXTBOOK, FLUSHED, OURS, UNFLUSHED)
SCALES = (1 / S_MAX, 0.1, 1.0, 10.0, 30.0, 100.0, 200.0, S_MAX)
REPEATS = 3


def scales(machine: cost.Machine, plan: Plan, running: Workers) -> Iterator[Row]:
    """Measure 3 steps of the MLP at every scale from the same state: when a task begins, and after 48 steps."""
    for state, trained in (("as a task begins", 0), ("after 48 steps", 48)):
        case = Case(network=MLP, batch=64, trained=trained, restore=True)
        for name in VARIANTS:
            running[name].build(case)
        runners: dict[str, Runner] = {name: running[name].run for name in VARIANTS}
        grid = [progress(scale) for scale in SCALES for _ in range(REPEATS)]
        timings = interleave(runners, grid, block=REPEATS, **plan.share(0.03))
        for name in VARIANTS:
            yield from rows(name, state, case, timings)


def rows(name: str, state: str, case: Case, timings: Timings) -> Iterator[Row]:
    """One row per scale, with the ratio of its step to the step at scale 1 in the same round."""
    by_scale = [blocks(steps, REPEATS) for steps in timings.seconds[name]]
    for point, scale in enumerate(SCALES):
        steps = [step for round_ in by_scale for step in round_[point]]
        pairs = [
            (statistics.median(round_[point]), statistics.median(round_[SCALES.index(1.0)])) for round_ in by_scale
        ]
        yield {
            **about("scale", name, case),
            "scale": scale,
            "state": state,
            "rounds": timings.rounds,
            "ms": milliseconds(steps),
            "ratio_to_scale_1": quantiles([seconds / at_scale_1 for seconds, at_scale_1 in pairs]),
        }
