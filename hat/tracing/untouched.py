"""Running a module and leaving no trace in it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Put everything back that a forward pass inside the `with` block changes.

    That is: attributes of modules and what they hold, flags, values of buffers, the state of random numbers, and
    whether attention takes its fast path, which is off inside.
    """
    modules = list(module.modules())
    kept = [(each, dict(each.__dict__), _contents(each.__dict__)) for each in modules]
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in module.buffers()]
    fast = torch.backends.mha.get_fastpath_enabled()
    python = random.getstate()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(python)
        for each, attributes, contents in kept:
            each.__dict__.clear()
            each.__dict__.update(attributes)
            for container, content in contents:
                _refill(container, content)
        with torch.no_grad():
            for buffer, version, values in buffers:
                if buffer._version != version:
                    buffer.copy_(values)


def _contents(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The containers among the attributes, each with a copy: a forward pass may fill a cache."""
    return [(value, value.copy()) for value in attributes.values() if isinstance(value, dict | list | set)]


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)
