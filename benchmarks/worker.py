"""A process of its own for every variant, with or without flush mode.

`torch.set_flush_denormal` acts on the thread that calls it and on worker threads that start later, so the mode of a
process is chosen before its first tensor operation and kept. It also keeps the variants' memory apart.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.measure import progress_grid
from benchmarks.ours import Ours
from benchmarks.plain import Plain
from benchmarks.textbook import Textbook
from benchmarks.workload import Network, batches, used_units


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a variant is asked to train.

    Attributes:
        network: which network.
        batch: samples a step.
        locked: the share in [0, 1] of every gate's units that a finished task uses; 0 for a first task.
        trained: steps over one annealed epoch before anything is timed.
        restore: go back to this state before every block, so that each block starts alike.
    """

    network: Network
    batch: int
    locked: float = 0.0
    trained: int = 0
    restore: bool = False


def build(kind: str, case: Case) -> Plain | Textbook | Ours:
    """A variant by name, the same weights for the same name each time."""
    torch.manual_seed(0)
    finished = used_units(case.network.units, case.locked) if case.locked else None
    if kind == "plain":
        return Plain(case.network)
    if kind == "textbook":
        return Textbook(case.network, finished=finished)
    if kind == "ours":
        return Ours(case.network, finished=finished)
    raise ValueError(f"kind: expected plain, textbook or ours, got {kind!r}")


class Bench:
    """One variant with its data: warms up, and times single steps."""

    def __init__(self, kind: str, case: Case) -> None:
        self.step, self.case = build(kind, case), case
        self.data = cycle(batches(case.network, case.batch, 8))
        for progress in progress_grid(case.trained) if case.trained else ():
            self.step(*next(self.data), progress)
        state = self.step.model.state_dict()
        self.state = {name: value.clone() for name, value in state.items()} if case.restore else None

    def run(self, grid: Sequence[float]) -> list[float]:
        """Seconds of one step at every progress of `grid`, after one that is not counted."""
        if self.state is not None:
            self.step.model.load_state_dict(self.state)
        self.step(*next(self.data), grid[0])
        return [self._time(progress) for progress in grid]

    def _time(self, progress: float) -> float:
        x, y = next(self.data)
        start = time.perf_counter()
        self.step(x, y, progress)
        return time.perf_counter() - start


class Worker:
    """The parent's end of a process that runs one variant."""

    def __init__(self, kind: str, *, flush: bool, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, kind, flush, threads), daemon=True)
        self._process.start()
        theirs.close()

    def build(self, case: Case) -> None:
        """Make the variant ready; returns when it is."""
        self._ask("build", case)

    def run(self, grid: Sequence[float]) -> list[float]:
        """See `Bench.run`."""
        return self._ask("run", list(grid))

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()

    def _ask(self, command: str, argument: Any) -> Any:
        try:
            self._connection.send((command, argument))
            ok, answer = self._connection.recv()
        except (EOFError, BrokenPipeError) as error:
            raise RuntimeError(f"worker: expected an answer to {command}, got an end of the process") from error
        if not ok:
            raise RuntimeError(f"worker: {command} failed: {answer}")
        return answer


def _serve(connection: Connection, kind: str, flush: bool, threads: int) -> None:
    torch.set_flush_denormal(flush)  # before the first tensor operation, see above
    torch.set_num_threads(threads)
    gc.disable()  # a collection in a timed step would be the harness's doing
    bench: Bench | None = None
    while True:
        try:
            command, argument = connection.recv()
        except EOFError:
            return
        try:
            if command == "build":
                bench = None  # give its memory back first
                gc.collect()
                bench = Bench(kind, argument)
                connection.send((True, None))
            else:
                assert bench is not None
                connection.send((True, bench.run(argument)))
        except Exception as error:
            connection.send((False, f"{type(error).__name__}: {error}"))
