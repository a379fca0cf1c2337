"""Keep subnormal numbers out of the arithmetic of a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def flushed_subnormals() -> Iterator[None]:
    """Results below 2^-126 become 0 inside the block. After the block the thread has its old mode again.

    Annealed gates multiply into such numbers, and a matmul of them was measured up to 200 times slower. The worker
    threads of parallel operations take the mode of the thread that first gives them work. So a program that needs the
    mode in all threads enters this block (or calls `torch.set_flush_denormal(True)`) before its first tensor operation.
    """
    flushed_before = (torch.tensor(1e-40) * 1).item() == 0  # torch has no function that tells the mode
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed_before)
