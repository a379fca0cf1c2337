"""Nested containers of tensors: tuples, lists and mappings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def flat(value: Any) -> Iterator[Any]:
    """The elements of nested tuples, lists and mappings, in order."""
    if isinstance(value, Mapping | tuple | list):
        for element in value.values() if isinstance(value, Mapping) else value:
            yield from flat(element)
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
