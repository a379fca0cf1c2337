"""Memory that shows which elements were not written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor


def filled(tensor: Tensor) -> Tensor:
    """NaN for a floating dtype, else the largest value of the dtype, which is no plausible index or count."""
    if tensor.dtype == torch.bool:
        return tensor.fill_(True)
    return tensor.fill_(torch.nan if _has_nan(tensor.dtype) else torch.iinfo(tensor.dtype).max)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Inside the block, memory allocated without a value holds poison: an element that no kernel writes shows."""
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
