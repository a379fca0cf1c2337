"""Normalisation over units of which not all are there, or some are there that were not when a task was learned.

A unit that is off is 0, so its share in a sum is known without it: only how many there are must be said.
"""

from __future__ import annotations

import torch
from torch import Tensor

Count = int | float | Tensor
"""Over how many elements: a number, or a tensor that broadcasts with what is left of the dimensions."""


def layer_norm(x: Tensor, dims: tuple[int, ...], count: Count, eps: float) -> Tensor:
    """`(x - mean) / sqrt(var + eps)` over `dims`, as if `count` elements lay there, the missing or superfluous ones 0.

    Args:
        x: any shape; computed in float32 at least.
        dims: the dimensions that are normalised over.
        count: > 0; a tensor has length 1 along `dims`.
        eps: >= 0.

    Returns:
        Shape and dtype of x; what it makes of superfluous zeros is of no use.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    length = 1
    for dim in dims:
        length *= x.shape[dim]
    mean = wide.sum(dims, keepdim=True) / count
    centred = wide - mean
    own = torch.linalg.vector_norm(centred, dim=dims, keepdim=True).square()  # a pass less than a sum of squares
    squares = own + (count - length) * mean.square()
    return (centred * (squares.clamp(min=0) / count + eps).rsqrt()).to(x.dtype)


def rms_norm(x: Tensor, dims: tuple[int, ...], count: Count, eps: float | None) -> Tensor:
    """`x / sqrt(mean of squares + eps)`, for all else see `layer_norm`; eps None is that of the dtype."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return (wide * (wide.square().sum(dims, keepdim=True) / count + eps).rsqrt()).to(x.dtype)


def group_norm(x: Tensor, groups: int, count: Count, eps: float) -> Tensor:
    """`layer_norm` over each of `groups` of the channels of x [B, C, ...] and all positions.

    Args:
        count: channels a group.
    """
    grouped = x.unflatten(1, (groups, -1))
    positions = x.shape[2:].numel()
    return layer_norm(grouped, tuple(range(2, grouped.dim())), count * positions, eps).view(x.shape)
