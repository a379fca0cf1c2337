"""Whether two tensors share memory."""

from __future__ import annotations

import torch
from torch import Tensor


def overlap(one: Tensor, other: Tensor) -> bool:
    """Some element of one is an element of the other."""
    if one.layout != torch.strided or other.layout != torch.strided or one.device != other.device:
        return False
    if not one.numel() or not other.numel() or one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
        return False
    if one.dtype != other.dtype:
        return True  # views of bytes: nobody looks closer
    size = one.untyped_storage().nbytes() // one.element_size()
    touched = torch.zeros(size, dtype=torch.bool)
    touched.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(touched.as_strided(other.shape, other.stride(), other.storage_offset()).any())
