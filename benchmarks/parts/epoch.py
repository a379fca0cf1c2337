"""Part `epoch`: steps over an annealed epoch, for several locked shares, as whole steps and by phase."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks import cost
from benchmarks.bench import Case
from benchmarks.measure import Runner, Timings, interleave, phases, progress_grid, quantiles
from benchmarks.plan import Plan, Row, Workers, about, milliseconds
from benchmarks.step import PHASES
from benchmarks.variants import COMPILED, FLUSHED, IN_MATMUL, OURS, PLAIN, TEXTBOOK
from benchmarks.workload import ALEXNET, MLP, S_MAX

LOCKED = (0.0, 0.25, 0.5, 0.75, 0.9)
VARIANTS = (PLAIN, TEXTBOOK, FLUSHED, OURS, IN_MATMUL, COMPILED)
EVERYWHERE = (PLAIN, TEXTBOOK, OURS, IN_MATMUL)  # to save time, other variants run only at the shares in FULL
FULL = (0.0, 0.5, 0.9)


@dataclass(frozen=True)
class Size:
    """A network and batch, and how its steps are measured.

    Attributes:
        case: the network and the batch.
        points: the number of points in the epoch.
        block: the number of points per turn.
        share: the share of the time for one cell.
        most: the variants at the shares in FULL.
    """

    case: Case
    points: int
    block: int
    share: float
    most: Sequence[str] = VARIANTS

    def variants(self) -> Sequence[str]:
        """The variants that run at the locked share of `case`."""
        return self.most if self.case.locked in FULL else EVERYWHERE


SIZES = (
    Size(Case(network=MLP, batch=64), 12, 4, 0.022),
    Size(Case(network=MLP, batch=256), 12, 4, 0.037),
    Size(Case(network=ALEXNET, batch=64), 6, 3, 0.035),
    Size(Case(network=ALEXNET, batch=256), 3, 3, 0.04, most=EVERYWHERE),
)


def epochs(machine: cost.Machine, plan: Plan, running: Workers) -> Iterator[Row]:
    """Measure both networks with batch 64 and 256 at every locked share."""
    for size in SIZES:
        for locked in LOCKED:
            yield from cell(replace(size, case=replace(size.case, locked=locked)), machine, plan, running)


def cell(size: Size, machine: cost.Machine, plan: Plan, running: Workers) -> Iterator[Row]:
    """Measure one network, batch and locked share with all its variants."""
    case = size.case
    chosen = {name: running[name] for name in size.variants()}
    for worker in chosen.values():
        worker.build(case)
    runners: dict[str, Runner] = {name: worker.split for name, worker in chosen.items()}
    timings = interleave(runners, progress_grid(size.points), block=size.block, **plan.share(size.share))
    whole, parts = phases(timings, PHASES)
    for name in chosen:
        yield row(name, case, machine, whole, parts)


def row(name: str, case: Case, machine: cost.Machine, whole: Timings, parts: dict[str, Timings]) -> Row:
    """The row of one variant, with its ratios to the others. In `plain` and its floor, nothing is locked."""
    locked = 0.0 if name == PLAIN else case.locked
    counted = cost.phases(case.network, case.batch, locked)
    return {
        **about("epoch", name, case),
        "scale": f"annealed, {len(whole.grid)} points of 1/{S_MAX:g} to {S_MAX:g}",
        "rounds": whole.rounds,
        "ms": milliseconds(whole.all(name)),
        "epoch_ms": 1e3 * whole.epoch(name),
        "phase_ms": {phase: 1e3 * timings.epoch(name) for phase, timings in parts.items()},
        "ratio_to": {other: quantiles(whole.ratios(name, other)) for other in whole.seconds if other != name},
        **cost.count(case.network, case.batch, locked),
        "floor_ms": 1e3 * cost.floor(case.network, case.batch, locked, machine),
        "phase_floor_ms": {phase: 1e3 * cost.seconds(parts, machine) for phase, parts in counted.items()},
    }
