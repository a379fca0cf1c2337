"""Memory that a captured CUDA graph needs.

While a graph is captured, no kernel runs. The graph stores the addresses of the tensors that its kernels will read and
write. These tensors must therefore stay alive, at the same addresses, as long as the graph does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_open_lists: list[list[object]] = []
_kept_for_ever: list[object] = []


def is_capturing(device: torch.device) -> bool:
    """Whether kernels launched on the current stream of `device` are recorded into a graph instead of run."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def hold(item: object) -> None:
    """Keep `item` alive for the graph that is being captured: in the list of `holding`, or for ever outside of one."""
    (_open_lists[-1] if _open_lists else _kept_for_ever).append(item)


@contextlib.contextmanager
def holding() -> Iterator[list[object]]:
    """A block in which a graph is captured; it gets a list of the objects that must live as long as the graph."""
    items: list[object] = []
    _open_lists.append(items)
    try:
        yield items
    finally:
        _open_lists.remove(items)
