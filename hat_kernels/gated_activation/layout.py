"""Any tensor with an axis of units as [B, N, L]: what lies before the units in memory, the units, what lies behind.

L is 1 for (..., N) and for channels-last images; there a kernel walks rows of units (`rows.py`). Else it walks planes
of L elements that share a unit (`planes.py`), as in (B, C, *spatial).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Tiled(NamedTuple):
    """A tensor and how its elements lie; the innermost stride is 1."""

    tensor: Tensor
    outer: int
    units: int
    inner: int
    stride_outer: int
    stride_units: int


def memory_order(x: Tensor, by_sample: bool) -> list[int]:
    """The dimensions from the slowest to the fastest in memory; as written where x overlaps itself.

    With `by_sample` dimension 0 comes first, as the sample of an element is read off its outer index.
    """
    written = list(range(x.dim()))
    if any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True)):
        return written
    strides = x.stride()
    order = sorted(written, key=lambda d: -strides[d])
    return written if by_sample and order[0] != 0 and x.shape[0] != 1 else order


def allocate(like: Tensor, order: list[int], dtype: torch.dtype | None = None) -> Tensor:
    """A dense tensor of the same shape, and dtype unless one is given, its dimensions in this order in memory."""
    memory = torch.empty([like.shape[d] for d in order], dtype=dtype or like.dtype, device=like.device)
    return memory if order == sorted(order) else memory.permute([order.index(d) for d in range(len(order))])


def tiled(tensor: Tensor, order: list[int], unit_dim: int) -> Tiled:
    """The tensor as [B, N, L], copied if its strides do not allow that."""
    position = order.index(unit_dim % tensor.dim())
    outer, inner = _merged(tensor, order[:position]), _merged(tensor, order[position + 1 :])
    units, stride = tensor.shape[unit_dim], tensor.stride(unit_dim)
    if outer and inner:
        innermost = inner[1] if inner[0] > 1 else stride
        if innermost == 1 or inner[0] * units == 1:
            return Tiled(tensor, outer[0], units, inner[0], outer[1], stride)
    return tiled(allocate(tensor, order).copy_(tensor), order, unit_dim)


def _merged(tensor: Tensor, dims: list[int]) -> tuple[int, int] | None:
    """(size, stride) of these dimensions as one, None if they do not merge; stride 0 if there is one element."""
    size, stride = 1, 0
    for d in reversed(dims):
        if tensor.shape[d] == 1:
            continue
        if size == 1:
            stride = tensor.stride(d)
        elif tensor.stride(d) != size * stride:
            return None
        size *= tensor.shape[d]
    return size, stride


def vector(*multiples: int) -> int:
    """The largest power of two, 8 at most, that divides sizes and strides: how many elements load at once."""
    divisor = math.gcd(*multiples)
    return min(8, divisor & -divisor) if divisor else 8


def block(size: int, widest: int) -> int:
    """The widest power of two from 16 that idles a quarter of its lanes at most; else the one that idles least."""
    candidates = [1 << power for power in range(widest.bit_length() - 1, 3, -1)]
    padded = {width: -(-size // width) * width for width in candidates}
    return next((width for width in candidates if 3 * padded[width] <= 4 * size), min(padded, key=padded.__getitem__))
