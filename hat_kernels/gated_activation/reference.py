"""Bias, activation, dropout and gate in pure PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.activation import ACTIVATIONS
from hat_kernels.dropout.api import dropout as drop
from hat_kernels.gate.form import GateForm


def gated_activation(
    x: Tensor,
    bias: Tensor | None,
    *,
    activation: str,
    dropout: float,
    gate: GateForm | None,
    unit_dim: int,
) -> Tensor:
    """See `hat_kernels.gated_activation`."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    h = x.to(dtype)
    if bias is not None:
        h = h + along(bias.to(dtype), x, unit_dim)
    h = ACTIVATIONS[activation](h)
    h = drop(h, dropout)
    if gate is not None:
        a = along(gate.values().to(dtype), x, unit_dim)
        h = h * a
        if gate.mask is not None:
            h = torch.where(a == 0, 0.0, h)  # exactly 0 also for an activation of inf: 0 * inf is NaN
    return h.to(x.dtype)


def along(units: Tensor, x: Tensor, unit_dim: int) -> Tensor:
    """A view that broadcasts against x: [N] along dimension `unit_dim`, [B, N] along dimensions 0 and `unit_dim`."""
    shape = [1] * x.dim()
    shape[unit_dim] = units.shape[-1]
    if units.dim() == 2:
        shape[0] = units.shape[0]
    return units.view(shape)
