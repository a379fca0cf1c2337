"""ReLU, dropout and gate in one node of the autograd graph, in place where that is allowed: what a CPU runs.

The reference makes five nodes, each with a tensor of the size of the activations. Here it is one node and two tensors,
and one tensor where a finished task is evaluated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hat_kernels.activation import ACTIVATIONS
from hat_kernels.compiling import fused
from hat_kernels.dropout.api import dropout as drop
from hat_kernels.dropout.reference import keep_factor, keep_mask
from hat_kernels.gate.reference import derivative
from hat_kernels.gated_activation.reference import along, per_sample


def takes(x: Tensor, bias: Tensor | None, activation: str, embedding: Tensor) -> bool:
    """Whether this file has the operation: ReLU, the bias added before, float32."""
    plain = activation == "relu" and bias is None and x.dtype == embedding.dtype == torch.float32
    return plain and x.device.type == "cpu" and not torch.compiler.is_compiling()


def takes_plain(x: Tensor, bias: Tensor | None, activation: str) -> bool:
    """Whether `plain_relu` is the operation, without a gate; dropout, if any, rounds once in these dtypes."""
    wide = x.dtype in (torch.float32, torch.float64)
    return activation == "relu" and bias is None and wide and x.device.type == "cpu"


def plain_relu(x: Tensor, dropout: float, overwrite: bool) -> Tensor:
    """`hat_kernels.gated_activation` of a ReLU without a gate: before a pool, or where the gate is in the weights."""
    return drop(torch.relu_(x) if overwrite else torch.relu(x), dropout)


_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def takes_mask(x: Tensor, bias: Tensor | None) -> bool:
    """Whether `masked` is the operation: no gradient, the bias added before."""
    needs_gradient = torch.is_grad_enabled() and x.requires_grad
    plain = bias is None and x.dtype in _INTEGERS and x.device.type == "cpu"
    return plain and not needs_gradient and not torch.compiler.is_compiling()


def masked(
    x: Tensor,
    *,
    activation: str,
    dropout: float,
    mask: Tensor,
    task: Tensor | None,
    unit_dim: int,
    overwrite: bool,
) -> Tensor:
    """`hat_kernels.gated_activation` of finished tasks, with the bits of the reference."""
    h = torch.relu_(x) if activation == "relu" and overwrite else ACTIVATIONS[activation](x)
    h = drop(h, dropout)
    if task is None:
        a = along(mask.to(x.dtype), x, unit_dim)
    else:
        a = per_sample(mask.index_select(0, task).to(x.dtype), x, unit_dim)
    y = h * a if h is x and not overwrite else h.mul_(a)
    # 0 * inf is no 0. `where` took 13 times as long as the product; "and" with ones or zeros takes as long as that.
    integer = _INTEGERS[x.dtype]
    on = a.view(integer).neg().bitwise_right_shift_(torch.iinfo(integer).bits - 1)  # of 0 that is 0, of others -1
    y.view(integer).bitwise_and_(on)
    return y


@fused
def _open(x: Tensor, mask: Tensor | None, gate: Tensor, overwrite: bool) -> tuple[Tensor, Tensor]:
    """(what ReLU and dropout leave, that times the gate)."""
    kept = x.clamp_min_(0) if overwrite else x.clamp_min(0)
    if mask is not None:
        kept = kept.mul_(mask)
    return kept, kept * gate


@fused
def _close(dy: Tensor, kept: Tensor, gate: Tensor, others: list[int]) -> tuple[Tensor, Tensor]:
    """(dx, the gradient of the gate)."""
    dx = dy * gate
    product = dy * kept
    return torch.ops.aten.threshold_backward(dx, kept, 0), product.sum(others) if others else product


class _GatedReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        embedding: Tensor,
        scale: Tensor,
        options: tuple[float, str, float],
        dropout: float,
        unit_dim: int,
        overwrite: bool,
    ) -> Tensor:
        mask = keep_mask(x.shape, dropout, x.dtype) if dropout else None
        s_max, compensation, floor = options
        ctx.options, ctx.unit_dim, ctx.factor = (s_max, compensation), unit_dim, keep_factor(dropout)
        a = torch.sigmoid(scale * embedding)
        gate = torch.where(a < floor, 0.0, a)
        kept, y = _open(x, mask, along(gate, x, unit_dim), overwrite)
        ctx.save_for_backward(kept, embedding, scale, a, gate)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        kept, embedding, scale, a, gate = ctx.saved_tensors
        others = [dim for dim in range(dy.dim()) if dim != ctx.unit_dim % dy.dim()]
        dx, da = _close(dy, kept, along(gate * ctx.factor, dy, ctx.unit_dim), others)
        d_embedding = derivative(da, embedding, scale, a, *ctx.options) if ctx.needs_input_grad[1] else None
        return dx, d_embedding, None, None, None, None, None


def gated_relu(
    x: Tensor,
    *,
    dropout: float,
    embedding: Tensor,
    scale: Tensor,
    s_max: float,
    compensation: str,
    floor: float,
    unit_dim: int,
    overwrite: bool,
) -> Tensor:
    """`hat_kernels.gated_activation` of a ReLU with the gate that is being learned."""
    options = (s_max, compensation, floor)
    result: Tensor = _GatedReLU.apply(x, embedding, scale, options, dropout, unit_dim, overwrite)
    return result
