"""When a layer multiplies its weights by the gate, instead of its activations; see `hat_kernels.folded_weight`.

Folding a gate a into the weights is valid because `relu(W x + b) * a = relu((a W) x + a b)` for `a >= 0`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_ACTIVATIONS = ("relu", "leaky_relu", "identity")
POOLS: set[type[nn.Module]] = {
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity),
}
"""Exactly these types, because a derived class may compute anything."""


def folded_dtype(
    weight: Tensor, activation: str, pool: nn.Module | None, frozen: tuple[int, int] | None
) -> torch.dtype | None:
    """The dtype of a folded weight; None if folding is not valid. Under autocast, the dtype is the dtype of autocast.

    Folding is valid under three conditions:

    - The activation and the pool commute with a positive factor.
    - No block of the weight is locked. The gradient of the gate is computed from the gradient of the whole weight, and
      no gradient is computed for a locked block.
    - The dtype is float32 or bfloat16. The floor of a folded gate is 2^-32. In float16 this number is 0, and in float64
      it is larger than the rounding of a unit that is on.

    Args:
        weight: [N, ...].
        activation: the activation behind the layer, a key of `hat_kernels.ACTIVATIONS`.
        pool: the pool behind the activation, or None.
        frozen: the leading rows and columns that are locked where they meet, see `hat.units.blocks.Sides.frozen`.
    """
    if activation not in _ACTIVATIONS or not (pool is None or type(pool) in POOLS):
        return None
    if frozen is not None and 0 not in frozen:
        return None
    dtype = weight.dtype
    if torch.is_autocast_enabled(weight.device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(weight.device.type)
    return dtype if dtype in (torch.float32, torch.bfloat16) else None


def folds_affine(x: Tensor, weight: Tensor, activation: str, *, soft: bool) -> bool:
    """Whether a gate may be folded into the affine part of a norm, where it costs no pass over memory.

    Folding is not valid in float16. There the floor of a soft gate is 0, and a unit that is off and overflows must be
    set to 0 by a select.

    Args:
        x: the input of the norm.
        weight: the weight of the affine part.
        activation: the activation behind the norm, a key of `hat_kernels.ACTIVATIONS`.
        soft: a task is learned. Otherwise the gate is a mask, which needs no floor, so that float64 is valid too.
    """
    kind = x.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if activation not in _ACTIVATIONS or torch.float16 in (x.dtype, weight.dtype, autocast):
        return False
    return not soft or torch.float64 not in (x.dtype, weight.dtype)


def pays(weight: Tensor, rows: int, pool: nn.Module | None, activation: str) -> bool:
    """Whether `fold="auto"` folds the gate into the weight.

    Folding takes five passes over the weight (W, W' forward; dW', W, dW backward). A gate over the activations takes
    five passes over them (x, y forward; dy, x, dx backward). So folding pays if the activations have more rows than a
    unit has weights. A pool leaves about a quarter of the rows, so the bound is four times as many rows before the
    pool. The same bound holds without a pool.

    On a GPU, a gate directly behind an activation costs nothing, because both take one pass together. Then folding
    does not pay. A CPU takes passes of their own for the gate.

    Args:
        weight: [N, ...].
        rows: the number of rows of activations, N units each, before the pool.
        pool: the pool in front of the gate, or None.
        activation: the activation in front of the gate, if there is no pool; a key of `hat_kernels.ACTIVATIONS`.
    """
    is_a_pass = pool is not None or activation == "identity" or weight.device.type == "cpu"
    return is_a_pass and torch.is_grad_enabled() and rows >= 4 * weight[:1].numel()
