"""Which tensors share memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor


class Memory:
    """Tensors, grouped by the memory that they are views of, so that only tensors of one group are compared."""

    def __init__(self) -> None:
        self._by_address: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def add(self, key: Tensor, values: Tensor) -> None:
        """Add the object `key`, which stands for `values`. Both are kept alive."""
        self._by_address[_address(values)].append((key, values))

    def sharing(self, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The pairs (object, its values) that share an element with `values`."""
        candidates = self._by_address.get(_address(values), ())
        return (pair for pair in candidates if overlap(pair[1], values))


def overlap(first: Tensor, second: Tensor) -> bool:
    """Whether the two tensors have an element of memory in common."""
    if _address(first) != _address(second) or not _address(first) or not first.numel() or not second.numel():
        return False
    if first.dtype != second.dtype:
        return True  # views of the same bytes as two types: taken to overlap, without a closer look
    touched = torch.zeros(first.untyped_storage().nbytes() // first.element_size(), dtype=torch.bool)
    touched.as_strided(first.shape, first.stride(), first.storage_offset()).fill_(True)
    return bool(touched.as_strided(second.shape, second.stride(), second.storage_offset()).any())


def _address(tensor: Tensor) -> int:
    """The address of the memory of a tensor; 0 if the tensor is not strided, as a sparse tensor."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0
