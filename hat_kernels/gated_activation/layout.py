"""Any tensor with an axis of units as [B, N, L]: the dimensions before the units in memory, the units, those behind.

Examples for N = 64 units:

- [128, 64], a batch of a linear layer: B = 128, L = 1. The kernel walks rows of 64 units (`rows.py`).
- [8, 64, 14, 14], a batch of images: B = 8, L = 196. The kernel walks planes of 196 elements of one unit (`planes.py`).
- the same images with channels last in memory: B = 8 * 196 = 1568, L = 1, so rows of 64 units again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Tiled(NamedTuple):
    """A tensor as [B, N, L]; the innermost stride is 1.

    Attributes:
        tensor: the memory.
        outer: B.
        units: N.
        inner: L.
        stride_outer: elements from one outer index to the next.
        stride_units: elements from one unit to the next.
    """

    tensor: Tensor
    outer: int
    units: int
    inner: int
    stride_outer: int
    stride_units: int


def memory_order(x: Tensor, by_sample: bool) -> list[int]:
    """The dimensions from the slowest to the fastest in memory; in the order 0, 1, ... if elements of x share memory.

    With `by_sample`, the order is 0, 1, ... as well unless dimension 0 is the slowest: a kernel computes the sample of
    an element from its outer index.
    """
    in_order = list(range(x.dim()))
    if any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True)):
        return in_order
    strides = x.stride()
    order = sorted(in_order, key=lambda d: -strides[d])
    return in_order if by_sample and order[0] != 0 and x.shape[0] != 1 else order


def allocate(like: Tensor, order: list[int], dtype: torch.dtype | None = None) -> Tensor:
    """A dense tensor of the shape of `like`, and its dtype by default, with its dimensions in this order in memory."""
    memory = torch.empty([like.shape[d] for d in order], dtype=dtype or like.dtype, device=like.device)
    return memory if order == sorted(order) else memory.permute([order.index(d) for d in range(len(order))])


def tiled(tensor: Tensor, order: list[int], unit_dim: int) -> Tiled:
    """A tensor as [B, N, L]; it is copied if its strides do not allow that."""
    position = order.index(unit_dim % tensor.dim())
    outer, inner = _merged(tensor, order[:position]), _merged(tensor, order[position + 1 :])
    units, stride = tensor.shape[unit_dim], tensor.stride(unit_dim)
    if outer and inner:
        innermost = inner[1] if inner[0] > 1 else stride
        if innermost == 1 or inner[0] * units == 1:
            return Tiled(tensor, outer[0], units, inner[0], outer[1], stride)
    return tiled(allocate(tensor, order).copy_(tensor), order, unit_dim)


def _merged(tensor: Tensor, dims: list[int]) -> tuple[int, int] | None:
    """(size, stride) of some dimensions as one; None if no single stride covers them; stride 0 for one element."""
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
    """How many elements a kernel can load at once: the largest power of two, 8 at most, that divides all arguments."""
    divisor = math.gcd(*multiples)
    return min(8, divisor & -divisor) if divisor else 8


def block(size: int, widest: int) -> int:
    """The block size for an axis of `size` elements: a power of two from 16 to `widest`.

    It is the widest one of which at most a quarter of the lanes is idle; if there is none, the one with fewest idle
    lanes. For 100 elements and `widest` 256: 256 and 128 leave 156 and 28 lanes idle, so the answer is 128.
    """
    candidates = [1 << power for power in range(widest.bit_length() - 1, 3, -1)]
    padded = {width: -(-size // width) * width for width in candidates}
    return next((width for width in candidates if 3 * padded[width] <= 4 * size), min(padded, key=padded.__getitem__))
