"""Running a module without changing it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Restore everything that a forward pass inside the `with` block changes.

    That is: the attributes of all modules, the dicts, lists and sets among the attributes, the values of buffers, and
    the state of random number generators. The fast path of attention is off inside the block.
    """
    modules = list(module.modules())
    state = [(part, dict(part.__dict__), _contents(part.__dict__)) for part in modules]
    saved_buffers = [(buffer, _version(buffer), buffer.clone()) for buffer in module.buffers()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    python_random = random.getstate()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        random.setstate(python_random)
        for part, attributes, contents in state:
            part.__dict__.clear()
            part.__dict__.update(attributes)
            for container, content in contents:
                _refill(container, content)
        with torch.no_grad():
            for buffer, version, values in saved_buffers:
                if version is None or buffer._version != version:
                    buffer.copy_(values)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the `with` block; after it every part of the module is in the mode that it had before.

    `train` and `eval` are not called, because a module may do more there, as merge an adapter into its weight.
    """
    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _version(buffer: Tensor) -> int | None:
    """How often a buffer was written to; None if that is not counted, as in inference mode."""
    return None if buffer.is_inference() else buffer._version


def _contents(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The dicts, lists and sets among the attributes, each with a copy, because a forward pass may fill a cache."""
    return [(value, value.copy()) for value in attributes.values() if isinstance(value, dict | list | set)]


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)
