"""The operation on a CPU: ReLU, dropout and gate as one node of the autograd graph, in place if that is allowed.

The reference makes five nodes, each with a tensor of the size of the activations. This file makes one node with two
such tensors, or with one tensor if a finished task is evaluated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hat_kernels.activation import ACTIVATIONS
from hat_kernels.compiling import fused
from hat_kernels.dropout.api import dropout as drop
from hat_kernels.dropout.reference import keep_factor, keep_mask
from hat_kernels.gate.form import GateForm
from hat_kernels.gate.reference import derivative
from hat_kernels.gated_activation.reference import along
from hat_kernels.limits import GATE_FLOOR

_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def takes(x: Tensor, bias: Tensor | None, activation: str, gate: GateForm | None) -> bool:
    """Whether this file can compute the operation. It can compute these, without a bias:

    - a ReLU without a gate
    - a ReLU with the gate that is being learned, in float32
    - any activation with a mask, if `x` needs no gradient
    """
    if bias is not None or x.device.type != "cpu" or x.dtype not in _INTEGERS:
        return False
    if gate is None:
        return activation == "relu"  # in these dtypes dropout rounds as in the reference
    if torch.compiler.is_compiling():
        return False
    if gate.embedding is not None:
        return activation == "relu" and x.dtype == gate.embedding.dtype == torch.float32
    return not (torch.is_grad_enabled() and x.requires_grad)


def gated_activation(
    x: Tensor, *, activation: str, dropout: float, gate: GateForm | None, unit_dim: int, overwrite: bool
) -> Tensor:
    """See `hat_kernels.gated_activation`; only for arguments that `takes` accepts."""
    if gate is None:
        return drop(torch.relu_(x) if overwrite else torch.relu(x), dropout)
    if gate.mask is not None:
        return _masked(x, activation, dropout, along(gate.values().to(x.dtype), x, unit_dim), overwrite)
    options = gate.s_max, gate.compensation
    result: Tensor = _GatedReLU.apply(x, gate.embedding, gate.scale, options, dropout, unit_dim, overwrite)
    return result


def _masked(x: Tensor, activation: str, dropout: float, a: Tensor, overwrite: bool) -> Tensor:
    """The operation with a mask, and the bits of the reference; `a`, the mask, broadcasts along x."""
    h = torch.relu_(x) if activation == "relu" and overwrite else ACTIVATIONS[activation](x)
    h = drop(h, dropout)
    y = h * a if h is x and not overwrite else h.mul_(a)
    # 0 * inf is NaN, but must be 0. `torch.where` took 13 times as long as the product above. A bitwise "and" with all
    # ones or all zeros takes only as long as the product.
    integer = _INTEGERS[x.dtype]
    on = a.view(integer).neg().bitwise_right_shift_(torch.iinfo(integer).bits - 1)  # 0 for a mask of 0, else all ones
    y.view(integer).bitwise_and_(on)
    return y


@fused
def _open(x: Tensor, mask: Tensor | None, gate: Tensor, overwrite: bool) -> tuple[Tensor, Tensor]:
    """(activations, activations * gate), where the activations are x after ReLU and dropout."""
    activations = x.clamp_min_(0) if overwrite else x.clamp_min(0)
    if mask is not None:
        activations = activations.mul_(mask)
    return activations, activations * gate


@fused
def _close(dy: Tensor, activations: Tensor, gate: Tensor, other_dims: list[int]) -> tuple[Tensor, Tensor]:
    """(dx, the gradient of the gate)."""
    dx = dy * gate
    product = dy * activations
    return torch.ops.aten.threshold_backward(dx, activations, 0), product.sum(other_dims) if other_dims else product


class _GatedReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        embedding: Tensor,
        scale: Tensor,
        options: tuple[float, str],
        dropout: float,
        unit_dim: int,
        overwrite: bool,
    ) -> Tensor:
        mask = keep_mask(x.shape, dropout, x.dtype) if dropout else None
        ctx.options, ctx.unit_dim, ctx.factor = options, unit_dim, keep_factor(dropout)
        a = torch.sigmoid(scale * embedding)
        gate = torch.where(a < GATE_FLOOR, 0.0, a)
        activations, y = _open(x, mask, along(gate, x, unit_dim), overwrite)
        ctx.save_for_backward(activations, embedding, scale, a, gate)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        activations, embedding, scale, a, gate = ctx.saved_tensors
        other_dims = [dim for dim in range(dy.dim()) if dim != ctx.unit_dim % dy.dim()]
        dx, da = _close(dy, activations, along(gate * ctx.factor, dy, ctx.unit_dim), other_dims)
        d_embedding = derivative(da, embedding, scale, a, *ctx.options) if ctx.needs_input_grad[1] else None
        return dx, d_embedding, None, None, None, None, None
