"""Buffers that training changes. They belong to all tasks, so they keep their values after the first task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from hat.units.gate import Gate
from hat.units.per_task import PerTask


def foreign(body: nn.Module) -> dict[str, tuple[nn.Module, str, Tensor]]:
    """The buffers of a network that belong neither to a gate nor to one task: (owner, name there, tensor) by name."""
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

    The values are not written back afterwards, because the backward pass may have saved a buffer and would then see
    that it was changed.
    """
    shared = foreign(body).values()
    for module, name, buffer in shared:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in shared:
            module._buffers[name] = buffer
