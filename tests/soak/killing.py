"""Training runs that are killed at random moments and started again, until they are done.

A run is a function that trains in a folder and goes on from what it finds there. It runs in processes that are forked
from this one, which has imported torch already: an import would take longer than a run.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hat import checkpoint

RESULT = "result-{rank}.pt"
_MOST_KILLS = 12

Train = Callable[[Path, int, int], dict[str, Any]]
"""(folder, rank, how many times the run was killed) to the final state of a run."""


@dataclass(frozen=True)
class Killed:
    """How a run went that was killed.

    Attributes:
        kills: how many times it was killed.
        wrong: what differs from the run that was not killed, or how it failed; "" if nothing.
    """

    kills: int
    wrong: str


def kill_and_resume(train: Train, *, ranks: int, runs: int, seed: int) -> list[Killed]:
    """Run `train` once without a kill, then `runs` times with kills at random moments of that time.

    Args:
        train: see `Train`.
        ranks: the number of processes of a run; all of them are killed at once.
        runs: the number of runs that are killed.
        seed: of the moments.
    """
    rng, found = random.Random(seed), []
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        whole.mkdir()
        started = time.perf_counter()
        if any(_wait(process) for process in _start(train, whole, ranks, 0)):
            raise RuntimeError("the run fails without a kill")
        seconds = time.perf_counter() - started
        while len(found) < runs:
            with tempfile.TemporaryDirectory(dir=folder) as cut:
                run = _killed(train, Path(cut), whole, ranks, seconds, rng)
            if run.kills or run.wrong:
                found.append(run)
            else:  # it was done before it could be killed
                seconds *= 0.9
    return found


def _killed(train: Train, folder: Path, whole: Path, ranks: int, seconds: float, rng: random.Random) -> Killed:
    """One run that is killed until it is done, or `_MOST_KILLS` times."""
    kills = 0
    while True:
        processes = _start(train, folder, ranks, kills)
        if kills < _MOST_KILLS:
            time.sleep(rng.uniform(0, seconds))
            for process in processes:
                os.kill(process, signal.SIGKILL)
        statuses = [_wait(process) for process in processes]
        if not any(statuses):
            break
        if -signal.SIGKILL not in statuses:  # a process that loses the other one may fail before it is killed itself
            return Killed(kills, f"processes end with status {statuses}")
        kills += 1
    for rank in range(ranks):
        name = RESULT.format(rank=rank)
        if differing := _differing(checkpoint.load(whole / name), checkpoint.load(folder / name)):
            return Killed(kills, f"rank {rank}: {differing}")
    return Killed(kills, "")


def _start(train: Train, folder: Path, ranks: int, kills: int) -> list[int]:
    """Fork the processes of a run. Returns their ids."""
    return [_forked(train, folder, rank, kills) for rank in range(ranks)]


def _forked(train: Train, folder: Path, rank: int, kills: int) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        torch.set_num_threads(1)
        checkpoint.save(folder / RESULT.format(rank=rank), train(folder, rank, kills))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # nothing of the parent is cleaned up twice


def _wait(process: int) -> int:
    """The exit code of a process; the negative number of a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _differing(one: Any, other: Any, where: str = "result") -> str:
    """The place of the first difference of two results; "" if they are equal to the bit."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        return "" if same else where
    if type(one) is not type(other):
        return where
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return where
        return next((text for key in one if (text := _differing(one[key], other[key], f"{where}.{key}"))), "")
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return where
        pairs = enumerate(zip(one, other, strict=True))
        return next((text for index, pair in pairs if (text := _differing(*pair, f"{where}[{index}]"))), "")
    return "" if one == other else where
