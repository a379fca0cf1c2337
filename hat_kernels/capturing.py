"""While a graph of the GPU is captured nothing runs, and what it will read or write must stay where it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_holders: list[list[object]] = []
_for_good: list[object] = []


def is_capturing(device: torch.device) -> bool:
    """Whether what is launched on the current stream of a device becomes a part of a graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def hold(thing: object) -> None:
    """Keep what a graph that is being captured needs: as long as its owner keeps it, or for good if nobody does."""
    (_holders[-1] if _holders else _for_good).append(thing)


@contextlib.contextmanager
def holding() -> Iterator[list[object]]:
    """Whoever captures a graph inside the block gets what must live as long as the graph."""
    held: list[object] = []
    _holders.append(held)
    try:
        yield held
    finally:
        _holders.remove(held)
