"""Keeping subnormal numbers out of the arithmetic of a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def flushed_subnormals() -> Iterator[None]:
    """Results below 2^-126 become 0 inside the block; the mode of the thread is put back after it.

    Annealed gates multiply into such numbers, and a matmul of them was measured up to 200 times slower. The worker
    threads of parallel operations take the mode of the thread that first makes them work, so a program that wants the
    mode everywhere enters this block (or calls `torch.set_flush_denormal(True)`) before its first tensor operation.
    """
    was = (torch.tensor(1e-40) * 1).item() == 0  # torch has no way to ask
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was)
