"""A bench: one variant with its network, its finished tasks and its data, ready to be timed."""

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

COMPILING = (0.0, 0.5, 1.0)  # after steps at these points of the epoch, everything is compiled


@dataclass(frozen=True, kw_only=True)
class Case:
    """The training that a variant is timed with.

    Attributes:
        network: the network.
        batch: the number of samples per step.
        locked: the share in [0, 1] of every gate's units that finished tasks use. 0: the step is in the first task.
        tasks: the number of finished tasks; they all use the same units. Only read if `locked` is not 0.
        trained: the number of steps, over one annealed epoch, before anything is timed.
        restore: restore the state after these steps before every block, so that all blocks start from one state.
    """

    network: Network | ConvertedNetwork
    batch: int
    locked: float = 0.0
    tasks: int = 1
    trained: int = 0
    restore: bool = False


def build(name: str, case: Case) -> TrainingStep:
    """Make a variant. The same name and case always give the same weights.

    Args:
        name: a key of `VARIANTS`.
        case: the training.

    Raises:
        ValueError: there is no such variant, or the textbook does not have the network.
    """
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
    """A variant that was warmed up, and the timing of its single steps. Use it under the variant's `backend()`."""

    def __init__(self, name: str, case: Case) -> None:
        self.step, self.case = build(name, case), case
        self.batches = batches(case.network, case.batch, 8)
        self.data = cycle(self.batches)
        compiling_steps = COMPILING if VARIANTS[name].compiled else ()
        for progress in (*compiling_steps, *progress_grid(case.trained)):
            self.step(*next(self.data), progress)
        state = self.step.model.state_dict()
        self.state = {name: value.clone() for name, value in state.items()} if case.restore else None

    def run(self, grid: Sequence[float]) -> list[float]:
        """Time one step at every progress in `grid`, in seconds. One step before them is not timed."""
        phases = iter(self.split(grid))
        return [sum(step) for step in zip(phases, phases, phases, strict=True)]

    def split(self, grid: Sequence[float]) -> list[float]:
        """Like `run`, with three numbers per step: the seconds of forward, backward and update."""
        if self.state is not None:
            self.step.model.load_state_dict(self.state)
        self.step(*next(self.data), grid[0])
        return [seconds for progress in grid for seconds in self._time(progress)]

    def memory(self) -> dict[str, int]:
        """Count the bytes of tensors: kept between steps, and the most that a step has at once in addition."""
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
