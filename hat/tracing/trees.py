"""Containers of tensors: mappings, tuples and lists, and what others have derived from them.

`torch.utils._pytree` does not look into a class derived from `dict`, `list` or `tuple` that nobody has registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def flat(value: Any, *, keys: bool = False) -> Iterator[Any]:
    """What is in tuples, lists and mappings, in order; the keys of a mapping come before its values."""
    if isinstance(value, Mapping):
        yield from value if keys else ()
        value = list(value.values())
    if isinstance(value, tuple | list):
        for element in value:
            yield from flat(element, keys=keys)
    else:
        yield value


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among it."""
    return (each for each in flat(value) if isinstance(each, Tensor))


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same containers, of what `change` makes of what is in them."""
    if isinstance(value, dict):
        return {key: replaced(each, change) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return rebuilt(value, [replaced(each, change) for each in value])
    return change(value)


def rebuilt(like: tuple[Any, ...] | list[Any], elements: list[Any]) -> Any:
    """A sequence of this type; a `NamedTuple` takes its elements one by one."""
    return type(like)(*elements) if hasattr(like, "_fields") else type(like)(elements)
