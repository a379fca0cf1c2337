"""Nested containers of tensors: mappings, tuples and lists, and classes derived from them.

`torch.utils._pytree` does not look into a derived class unless the class is registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def flat(value: Any, *, keys: bool = False) -> Iterator[Any]:
    """The elements of nested tuples, lists and mappings, in order.

    Args:
        value: a container, or a single element.
        keys: the keys of a mapping come, too, before its values.
    """
    if isinstance(value, Mapping):
        yield from value if keys else ()
        value = list(value.values())
    if isinstance(value, tuple | list):
        for element in value:
            yield from flat(element, keys=keys)
    else:
        yield value


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers, in order."""
    return (element for element in flat(value) if isinstance(element, Tensor))


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nested containers, with `change(element)` in place of every element."""
    if isinstance(value, dict):
        return {key: replaced(element, change) for key, element in value.items()}
    if isinstance(value, tuple | list):
        return rebuilt(value, [replaced(element, change) for element in value])
    return change(value)


def rebuilt(like: tuple[Any, ...] | list[Any], elements: list[Any]) -> Any:
    """A sequence of the type of `like` with these elements."""
    return type(like)(*elements) if hasattr(like, "_fields") else type(like)(elements)
