"""A linear layer with its activation and gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hat_kernels.dispatch import use_triton
from hat_kernels.gated_activation.api import gated_activation
from hat_kernels.gated_linear import reference
from hat_kernels.gated_linear.reference import linear
from hat_kernels.locked_linear.api import Update


def gated_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    frozen: tuple[int, int] | None = None,
    update: Update | None = None,
    **epilogue: Any,
) -> Tensor:
    """`dropout(activation(x W^T + bias)) * gate`, Serrà et al. 2018, eq. 1.

    Differentiable in `x`, `weight`, `bias` and `embedding`.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].
        frozen: (rows, columns), the leading block of the weight that is locked: its gradient is 0 and costs nothing,
            see `hat_kernels.locked_linear`. None: the gradient is that of `torch.nn.functional.linear`.
        update: takes the place of the weight gradient, see there; with `frozen`.
        epilogue: activation, dropout and gate, as `hat_kernels.gated_activation` takes them (not `unit_dim`).

    Returns:
        [..., N].

    Raises:
        TypeError: `x` and `weight` differ in dtype outside of autocast.
        ValueError: a shape or device that does not fit; see also `hat_kernels.gated_activation`.
    """
    if weight.dim() != 2:
        raise ValueError(f"weight: expected shape (N, K), got {tuple(weight.shape)}")
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x: expected shape (..., {weight.shape[1]}), got {tuple(x.shape)}")
    if x.device != weight.device:
        raise ValueError(f"x: expected device {weight.device}, got {x.device}")
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"x: expected {weight.dtype} as the weight, got {x.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    gate = [epilogue.get(name) for name in ("embedding", "scale", "mask")]
    if use_triton("gated_linear", x, weight, bias, *gate):
        return gated_activation(linear(x, weight, None, frozen, update), bias, **epilogue)  # the bias rides along
    return reference.gated_linear(x, weight, bias, frozen, update, **epilogue)
