"""Running a module without changing it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hat.tracing.generators import generators

CONTAINERS = (dict, list, set, deque)
"""The classes of containers whose contents a forward pass may change, in place."""


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Restore everything that a forward pass inside the `with` block changes.

    That is: the attributes of all modules and of plain objects in them, the containers among the attributes, the values
    of buffers, and the state of random number generators. The fast path of attention is off inside the block.
    """
    state = [(fields, dict(fields), _contents(fields)) for _, _, fields in holders(module)]
    saved_buffers = [(buffer, _version(buffer), buffer.clone()) for buffer in module.buffers()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    drawn_from = [(generator, generator.get()) for generator in generators(module)]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for generator, place in drawn_from:
            generator.set(place)
        for fields, attributes, contents in state:
            fields.clear()
            fields.update(attributes)
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


def holders(module: nn.Module) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What has attributes in a network: all modules, and the plain objects among their attributes.

    Returns:
        (path, name, attributes): `path` is the name of the module; `name` is the name of the object in it, "" for the
        module itself.
    """
    known = set()
    for path, part in module.named_modules():
        yield path, "", part.__dict__
        for name, value in list(part.__dict__.items()):
            fields = None if isinstance(value, _NO_PLAIN_OBJECTS) else getattr(value, "__dict__", None)
            if isinstance(fields, dict) and id(fields) not in known:
                known.add(id(fields))
                yield path, name, fields


_NO_PLAIN_OBJECTS = (nn.Module, Tensor, *CONTAINERS, type, FunctionType, MethodType, ModuleType)


def _version(buffer: Tensor) -> int | None:
    """How often a buffer was written to; None if that is not counted, as in inference mode."""
    return None if buffer.is_inference() else buffer._version


def _contents(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The containers among the attributes, each with a copy, because a forward pass may fill a cache."""
    return [(value, value.copy()) for value in attributes.values() if isinstance(value, CONTAINERS)]


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list | deque):
        container.extend(content)
    else:
        container.update(content)
