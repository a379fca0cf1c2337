"""Normalisation over another number of units than the tensor has.

A task may have been learned when the network had more or fewer units than now. All units that the task does not use are
0, so a sum over the units is the same with and without them. Only the number of units must be given: the count.
"""

from __future__ import annotations

import torch
from torch import Tensor

Count = int | float | Tensor
"""How many elements a mean is over: a number, or a tensor that broadcasts with the dimensions that are left."""


def layer_norm(x: Tensor, dims: tuple[int, ...], count: Count, eps: float) -> Tensor:
    """`(x - mean) / sqrt(var + eps)` over `dims`, as if there were `count` elements.

    If `count` is larger than the number of elements, the missing elements count as 0. If `count` is smaller, so many
    elements of x are superfluous, and must be 0.

    Args:
        x: any shape. The computation is in float32 at least.
        dims: the dimensions that are normalised over.
        count: > 0; if it is a tensor, it has length 1 along `dims`.
        eps: >= 0.

    Returns:
        A tensor of the shape and dtype of x. The results for superfluous elements have no meaning.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    length = 1
    for dim in dims:
        length *= x.shape[dim]
    mean = wide.sum(dims, keepdim=True) / count
    centred = wide - mean
    # `vector_norm` takes one pass over memory less than a sum of squares.
    squares_of_x = torch.linalg.vector_norm(centred, dim=dims, keepdim=True).square()
    squares = squares_of_x + (count - length) * mean.square()
    return (centred * (squares.clamp(min=0) / count + eps).rsqrt()).to(x.dtype)


def rms_norm(x: Tensor, dims: tuple[int, ...], count: Count, eps: float | None) -> Tensor:
    """`x / sqrt(mean of squares + eps)` over `dims`, as if there were `count` elements; see `layer_norm`.

    Args:
        x: any shape. The computation is in float32 at least.
        dims: the dimensions that are normalised over.
        count: see `layer_norm`.
        eps: >= 0; None: the machine epsilon of the dtype of x.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return (wide * (wide.square().sum(dims, keepdim=True) / count + eps).rsqrt()).to(x.dtype)


def group_norm(x: Tensor, groups: int, count: Count, eps: float) -> Tensor:
    """`layer_norm` over the channels of every group and all positions.

    Args:
        x: [B, C, ...].
        groups: the number of groups, which divides C.
        count: the number of channels per group.
        eps: >= 0.
    """
    grouped = x.unflatten(1, (groups, -1))
    positions = x.shape[2:].numel()
    return layer_norm(grouped, tuple(range(2, grouped.dim())), count * positions, eps).view(x.shape)
