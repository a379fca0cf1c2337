"""One variant with its network, its finished tasks and its data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, cycle

import torch

from benchmarks import memory
from benchmarks.converted import ConvertedNetwork
from benchmarks.measure import progress_grid
from benchmarks.ours import Ours
from benchmarks.plain import Plain
from benchmarks.step import TrainingStep
from benchmarks.textbook import Textbook
from benchmarks.variants import VARIANTS
from benchmarks.workload import Network, batches, used_units

COMPILING = (0.0, 0.5, 1.0)  # progress of the steps after which nothing is left to compile


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a variant is asked to train.

    Attributes:
        network: which network.
        batch: samples a step.
        locked: the share in [0, 1] of every gate's units that a finished task uses; 0 for a first task.
        tasks: how many finished tasks use these units, where `locked` is not 0.
        trained: steps over one annealed epoch before anything is timed.
        restore: go back to this state before every block, so that each block starts alike.
    """

    network: Network | ConvertedNetwork
    batch: int
    locked: float = 0.0
    tasks: int = 1
    trained: int = 0
    restore: bool = False


def build(name: str, case: Case) -> TrainingStep:
    """A variant by name, the same weights for the same name each time."""
    if name not in VARIANTS:
        raise ValueError(f"name: expected one of {', '.join(VARIANTS)}, got {name!r}")
    variant = VARIANTS[name]
    torch.manual_seed(0)
    finished = used_units(case.network.units, case.locked) if case.locked else None
    if variant.kind == "plain":
        return Plain(case.network)
    if variant.kind == "textbook":
        if isinstance(case.network, ConvertedNetwork):
            raise ValueError(f"network: expected one of the paper's for {name!r}, got {case.network}")
        return Textbook(case.network, finished=finished)
    return Ours(case.network, finished=finished, tasks=case.tasks, in_backward=variant.in_backward)


class Bench:
    """Warms a variant up, and times single steps; to be used under the variant's `backend()`."""

    def __init__(self, name: str, case: Case) -> None:
        self.step, self.case = build(name, case), case
        self.batches = batches(case.network, case.batch, 8)
        self.data = cycle(self.batches)
        untimed = COMPILING if VARIANTS[name].compiled else ()
        for progress in (*untimed, *progress_grid(case.trained)):
            self.step(*next(self.data), progress)
        state = self.step.model.state_dict()
        self.state = {name: value.clone() for name, value in state.items()} if case.restore else None

    def run(self, grid: Sequence[float]) -> list[float]:
        """Seconds of one step at every progress of `grid`, after one that is not counted."""
        phases = iter(self.split(grid))
        return [sum(step) for step in zip(phases, phases, phases, strict=True)]

    def split(self, grid: Sequence[float]) -> list[float]:
        """As `run`, but three numbers a step: forward, backward and update."""
        if self.state is not None:
            self.step.model.load_state_dict(self.state)
        self.step(*next(self.data), grid[0])
        return [seconds for progress in grid for seconds in self._time(progress)]

    def memory(self) -> dict[str, int]:
        """Bytes of tensors kept between steps, and the most that a step has beside them."""
        (x, y), step = next(self.data), self.step
        step(x, y, 0.5)
        step.optimizer.zero_grad()
        state = memory.kept(but=chain.from_iterable(self.batches))
        return {"state_bytes": state, "step_bytes": memory.allocated(lambda: step(x, y, 0.5))}

    def _time(self, progress: float) -> tuple[float, float, float]:
        x, y = next(self.data)
        start = time.perf_counter()
        loss = self.step.forward(x, y, progress)
        forward = time.perf_counter()
        self.step.backward(loss)
        backward = time.perf_counter()
        self.step.update()
        return forward - start, backward - forward, time.perf_counter() - backward
