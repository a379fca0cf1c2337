"""Processes for the variants. Every variant runs in its own process, with or without flush mode.

`torch.set_flush_denormal` acts on the calling thread and on worker threads that start later. Therefore a process sets
the mode before its first tensor operation and never changes it. Processes also keep the memory of the variants apart.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks import memory
from benchmarks.bench import Bench, Case, build
from benchmarks.variants import VARIANTS

__all__ = ["Bench", "Case", "Worker", "build"]


class Worker:
    """The parent's end of a process that runs one variant."""

    def __init__(self, name: str, *, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, worker_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(worker_end, name, threads), daemon=True)
        self._process.start()
        worker_end.close()

    def build(self, case: Case) -> None:
        """Build the variant and warm it up. Returns when the variant is ready."""
        self._ask("build", case)

    def run(self, grid: Sequence[float]) -> list[float]:
        """See `Bench.run`."""
        return self._ask("run", list(grid))

    def split(self, grid: Sequence[float]) -> list[float]:
        """See `Bench.split`."""
        return self._ask("split", list(grid))

    def memory(self) -> dict[str, int]:
        """See `Bench.memory`."""
        return self._ask("memory")

    def peak(self, case: Case) -> int | None:
        """The peak of some steps, see `memory.resident`. The process must be fresh."""
        return self._ask("peak", case)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()

    def _ask(self, command: str, *arguments: Any) -> Any:
        try:
            self._connection.send((command, arguments))
            ok, answer = self._connection.recv()
        except (EOFError, BrokenPipeError) as error:
            raise RuntimeError(f"worker: expected an answer to {command}, but the process has ended") from error
        if not ok:
            raise RuntimeError(f"worker: {command} failed: {answer}")
        return answer


class _Server:
    """The commands of the process. Every method is a command of `Worker`."""

    bench: Bench

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, case: Case) -> None:
        self.__dict__.pop("bench", None)  # free the memory of the old bench first
        gc.collect()
        if VARIANTS[self.name].compiled:
            torch.compiler.reset()  # no case uses code that was compiled for another case
        self.bench = Bench(self.name, case)

    def run(self, grid: Sequence[float]) -> list[float]:
        return self.bench.run(grid)

    def split(self, grid: Sequence[float]) -> list[float]:
        return self.bench.split(grid)

    def memory(self) -> dict[str, int]:
        return self.bench.memory()

    def peak(self, case: Case) -> int | None:
        return memory.resident(lambda: partial(Bench(self.name, case).run, [0.0, 0.5, 1.0]))


def _serve(connection: Connection, name: str, threads: int) -> None:
    torch.set_flush_denormal(VARIANTS[name].flush)  # before the first tensor operation, see the module docstring
    torch.set_num_threads(threads)
    gc.disable()  # a garbage collection in a timed step would distort the time
    server = _Server(name)
    with VARIANTS[name].backend():
        while True:
            try:
                command, arguments = connection.recv()
            except EOFError:
                return
            try:
                connection.send((True, getattr(server, command)(*arguments)))
            except Exception as error:
                connection.send((False, f"{type(error).__name__}: {error}"))
