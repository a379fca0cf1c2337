"""Buffers that training changes: they belong to all tasks, so after the first task they stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from hat.units.gate import Gate
from hat.units.per_task import PerTask


def foreign(body: nn.Module) -> dict[str, tuple[nn.Module, str, Tensor]]:
    """The buffers of a network that are no gate's and no task's own: owner, name there and tensor, by full name."""
    return {
        f"{path}.{name}" if path else name: (module, name, buffer)
        for path, module in body.named_modules()
        if not isinstance(module, Gate | PerTask)
        for name, buffer in module._buffers.items()
        if buffer is not None
    }


@contextmanager
def frozen(body: nn.Module) -> Iterator[None]:
    """Let the modules write into copies of their buffers inside the `with` block; the buffers keep their values.

    Copies, and not a write afterwards: the backward pass may have saved the buffer it met.
    """
    kept = foreign(body).values()
    for module, name, buffer in kept:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer
