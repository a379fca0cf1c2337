"""Memory that shows when nothing was written to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor


def filled(tensor: Tensor) -> Tensor:
    """NaN where the dtype has it, else the largest value: an index or a count that nobody can mistake for a result."""
    if tensor.dtype == torch.bool:
        return tensor.fill_(True)
    return tensor.fill_(torch.nan if _has_nan(tensor.dtype) else torch.iinfo(tensor.dtype).max)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Inside the block every allocation without a value is filled: an element that no kernel writes stays NaN."""
    with contextlib.ExitStack() as stack:
        for owner, name in _ALLOCATORS:
            stack.enter_context(mock.patch.object(owner, name, _poisoning(getattr(owner, name))))
        yield


_ALLOCATORS: list[tuple[Any, str]] = [
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (Tensor, "new_empty"),
    (Tensor, "new_empty_strided"),
]


def _has_nan(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _poisoning(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def allocate_filled(*args: Any, **options: Any) -> Tensor:
        with torch.no_grad():
            return filled(allocate(*args, **options))

    return allocate_filled
