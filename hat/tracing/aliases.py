"""Which tensors share memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor


class Memory:
    """Objects by the memory that they are views of, so that few have to be compared."""

    def __init__(self) -> None:
        self._known: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def add(self, key: Tensor, values: Tensor) -> None:
        """An object, and the values that it stands for; both are kept alive."""
        self._known[_place(values)].append((key, values))

    def sharing(self, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Those some element of which is one of these values."""
        return (each for each in self._known.get(_place(values), ()) if overlap(each[1], values))


def overlap(one: Tensor, other: Tensor) -> bool:
    """Some element of one is an element of the other."""
    if _place(one) != _place(other) or not _place(one) or not one.numel() or not other.numel():
        return False
    if one.dtype != other.dtype:
        return True  # views of bytes: nobody looks closer
    touched = torch.zeros(one.untyped_storage().nbytes() // one.element_size(), dtype=torch.bool)
    touched.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(touched.as_strided(other.shape, other.stride(), other.storage_offset()).any())


def _place(tensor: Tensor) -> int:
    """The address of its memory; 0 where it has none of that kind."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0
