"""Buffers that a forward pass writes to, as a running mean, and when they keep their values.

A buffer that belongs neither to a gate nor to one task belongs to all tasks. It keeps its value after the first task:
a pass in training mode writes into a copy. What a gradient recomputes of a pass must not write a second time, so it
writes into copies of all buffers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hat.text import dotted
from hat.units.gate import Gate
from hat.units.per_task import PerTask
from hat.units.state import Answering

Place = tuple[nn.Module, str]
"""Where a buffer is: the module that owns it, and its name there."""


def foreign(body: nn.Module) -> dict[str, tuple[nn.Module, str, Tensor]]:
    """The buffers of a network that belong neither to a gate nor to one task: (owner, name there, tensor) by name."""
    return {
        dotted(path, name): (module, name, buffer)
        for path, module in body.named_modules()
        if not isinstance(module, Gate | PerTask)
        for name, buffer in module._buffers.items()
        if buffer is not None
    }


@contextmanager
def frozen(body: nn.Module) -> Iterator[None]:
    """Let the modules write into copies of the foreign buffers inside the `with` block."""
    with _copied(body, {(module, name): buffer for module, name, buffer in foreign(body).values()}):
        yield


class Pass(Answering):
    """A forward pass through a body, as a context manager; see `State.answering`.

    If a gradient recomputes a part of the pass, the part finds the buffers as they were when it ran first.
    """

    body: nn.Module
    _written: list[Place] | None = None

    def again(self) -> Answering:
        """See `hat.units.recomputing.Reopens`."""
        if self._written is None:
            self._written = list(_written(self.body))
        values = {(module, name): getattr(module, name).clone() for module, name in self._written}
        return _Recomputation(self, values)


class _Recomputation(Answering):
    """What a checkpoint recomputes of a pass.

    Args:
        of: the pass.
        values: the buffers at the time of the checkpoint.
    """

    body: nn.Module

    def __init__(self, of: Pass, values: dict[Place, Tensor]) -> None:
        super().__init__(of.state, of.answer, of.body, edits=of.state.edits)
        self.values = values
        self._stack = ExitStack()

    def __enter__(self) -> None:
        super().__enter__()
        self._stack.enter_context(_copied(self.body, self.values))

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        super().__exit__(*error)


@contextmanager
def _copied(body: nn.Module, values: dict[Place, Tensor]) -> Iterator[None]:
    """Give buffers copies of these values inside the `with` block; one thread of a network at a time is inside.

    The buffers themselves are not written to, not even with their old values afterwards: the backward pass may have
    saved a buffer, and would see that it was changed.
    """
    if not values:
        yield
        return
    with _lock_of(body):
        before = {place: module._buffers[name] for place in values for module, name in [place]}
        for (module, name), value in values.items():
            module._buffers[name] = value.clone()
        try:
            yield
        finally:
            for (module, name), buffer in before.items():
                module._buffers[name] = buffer


def _lock_of(body: nn.Module) -> AbstractContextManager[Any]:
    """The lock of a network; a compiler cannot trace one."""
    return nullcontext() if torch.compiler.is_compiling() else _LOCKS.setdefault(body, threading.RLock())


_LOCKS: WeakKeyDictionary[nn.Module, AbstractContextManager[Any]] = WeakKeyDictionary()


def _written(body: nn.Module) -> Iterator[Place]:
    """The buffers that a forward pass may write to: all except those of gates and of finished tasks."""
    for module in body.modules():
        if not isinstance(module, Gate):
            kept = module.kept if isinstance(module, PerTask) else ()
            fixed = {f"{name}_{of}" for name in kept for of in ("initial", "tasks")}
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in fixed:
                    yield module, name
