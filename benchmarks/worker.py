"""A process of its own for every variant, with or without flush mode.

`torch.set_flush_denormal` acts on the thread that calls it and on worker threads that start later, so the mode of a
process is chosen before its first tensor operation and kept. It also keeps the variants' memory apart.
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
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, threads), daemon=True)
        self._process.start()
        theirs.close()

    def build(self, case: Case) -> None:
        """Make the variant ready; returns when it is."""
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
        """See `memory.resident`: of some steps, in a process that did nothing else yet."""
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
            raise RuntimeError(f"worker: expected an answer to {command}, got an end of the process") from error
        if not ok:
            raise RuntimeError(f"worker: {command} failed: {answer}")
        return answer


class _Server:
    """What the process does when it is asked."""

    bench: Bench

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, case: Case) -> None:
        self.__dict__.pop("bench", None)  # give its memory back first
        gc.collect()
        if VARIANTS[self.name].compiled:
            torch.compiler.reset()  # no case meets what was compiled for another
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
    torch.set_flush_denormal(VARIANTS[name].flush)  # before the first tensor operation, see above
    torch.set_num_threads(threads)
    gc.disable()  # a collection in a timed step would be the harness's doing
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
