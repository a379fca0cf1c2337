"""Where a gate goes into the weights that feed it, instead of over the activations; see `hat_kernels.folded_weight`."""

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
}  # these themselves: what is derived of them may compute anything


def folded_dtype(
    weight: Tensor, activation: str, pool: nn.Module | None, frozen: tuple[int, int] | None
) -> torch.dtype | None:
    """The dtype in which a weight may be folded, that of autocast where it casts; None where folding is not valid.

    - What follows must commute with a positive factor.
    - The gate's gradient is read off that of the whole weight, so nothing of it may be left out: a locked block, whose
      gradient is not computed, leaves the layer unfolded.
    - The floor of a folded gate, 2^-32, must be a number, as it is not in float16, and lie under the rounding of a unit
      that is on, as it does not in float64.
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
    """Whether a gate may go into the affine part of a norm, where it never costs a pass.

    Not in float16: the floor of a soft gate is 0 there, and an off-unit that overflows must be kept 0 by a select.

    Args:
        x: what is normalised.
        weight: of the affine part.
        activation: behind it.
        soft: a task is learned; else the gate is a mask, which needs no floor, so that any wider dtype will do.
    """
    kind = x.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if activation not in _ACTIVATIONS or torch.float16 in (x.dtype, weight.dtype, autocast):
        return False
    return not soft or torch.float64 not in (x.dtype, weight.dtype)


def pays(weight: Tensor, rows: int, pool: nn.Module | None, activation: str) -> bool:
    """Whether `fold="auto"` folds.

    Folding takes five passes over the weight (W, W' forward; dW', W, dW backward), a gate five over what it multiplies
    (x, y; dy, x, dx). So it pays where the rows of that outnumber the elements of a unit's weight; behind a pool, which
    leaves a quarter of the rows or so, where four times as many go in. The same bound is kept without a pool. There the
    gate costs a GPU nothing if there is an activation on whose pass it rides; a CPU takes passes of their own for it.

    Args:
        weight: [N, ...].
        rows: of activations, of N units each, before the pool.
        pool: what the gate comes behind.
        activation: what it comes behind if there is no pool.
    """
    is_a_pass = pool is not None or activation == "identity" or weight.device.type == "cpu"
    return is_a_pass and torch.is_grad_enabled() and rows >= 4 * weight[:1].numel()
