"""Bias, activation, dropout and gate in pure PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.activation import ACTIVATIONS
from hat_kernels.dropout.api import dropout as drop


def gated_activation(
    x: Tensor,
    bias: Tensor | None,
    *,
    activation: str,
    dropout: float,
    gate: Tensor | None,
    mask: Tensor | None,
    task: Tensor | None,
    unit_dim: int,
) -> Tensor:
    """See `hat_kernels.gated_activation`; `gate` is the gate that is being learned."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    h = x.to(dtype)
    if bias is not None:
        h = h + along(bias.to(dtype), x, unit_dim)
    h = ACTIVATIONS[activation](h)
    h = drop(h, dropout)
    if gate is not None:
        h = h * along(gate.to(dtype), x, unit_dim)
    elif mask is not None:
        a = along(mask.to(dtype), x, unit_dim) if task is None else per_sample(mask.to(dtype)[task], x, unit_dim)
        h = torch.where(a == 0, 0.0, h * a)  # an off-unit that overflowed must not leave 0 * inf behind
    return h.to(x.dtype)


def along(units: Tensor, x: Tensor, unit_dim: int) -> Tensor:
    """View [N] so that it broadcasts along dimension `unit_dim` of x."""
    shape = [1] * x.dim()
    shape[unit_dim] = -1
    return units.view(shape)


def per_sample(units: Tensor, x: Tensor, unit_dim: int) -> Tensor:
    """View [B, N] so that it broadcasts along dimensions 0 and `unit_dim` of x."""
    shape = [1] * x.dim()
    shape[0], shape[unit_dim] = units.shape
    return units.view(shape)
