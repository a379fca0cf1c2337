"""Processes that run functions together, as the ranks of a gloo group. They are started once and run many functions."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

WAIT = 120.0  # seconds after which a process that should have answered counts as dead


class Processes:
    """Processes that wait for functions to run.

    Args:
        size: how many.
    """

    def __init__(self, size: int = 2) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(size)]
        self.processes = [
            context.Process(target=_serve, args=(rank, size, far), daemon=True) for rank, (_, far) in enumerate(pipes)
        ]
        for process in self.processes:
            process.start()
        for _, far in pipes:
            far.close()  # so that the end of a process ends its pipe
        self.pipes = [near for near, _ in pipes]
        self.runs = 0

    def run(
        self, function: Callable[..., Any], folder: Path, *arguments: Any, timeout: float = 60.0, store: str = "file"
    ) -> list[Any]:
        """What `function(rank, *arguments)` returns in every process.

        Args:
            function: at the top level of a module. What it raises counts as its result, as text.
            folder: a folder for the store of the group.
            arguments: what can be pickled.
            timeout: of the group, in seconds.
            store: what holds the store of the group: `"file"`, or `"tcp"`, process 0.

        Returns:
            The results; None for a process that has died.
        """
        self.runs += 1
        method = f"file://{folder / f'store-{self.runs}'}" if store == "file" else f"tcp://127.0.0.1:{_free_port()}"
        for pipe in self.pipes:
            pipe.send((function, method, timeout, arguments))
        return [_received(pipe) for pipe in self.pipes]

    def close(self) -> None:
        for pipe in self.pipes:
            with suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join(WAIT)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _received(pipe: Any) -> Any:
    try:
        return pipe.recv() if pipe.poll(WAIT) else None
    except EOFError:
        return None


def _serve(rank: int, size: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    while (job := pipe.recv()) is not None:
        function, method, timeout, arguments = job
        os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
        dist.init_process_group(
            "gloo", init_method=method, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
        )
        try:
            result = function(rank, *arguments)
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        dist.destroy_process_group()
        pipe.send(result)
