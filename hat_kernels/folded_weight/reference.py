"""A gate folded into weights, in pure PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hat_kernels.gate.form import GateForm
from hat_kernels.gate.reference import gate as soft_gate


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor | None, gate: Tensor, dtype: torch.dtype, floor: float
    ) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(weight, bias, gate)
        ctx.floor = floor
        clamped = torch.where(gate < floor, floor, gate)
        return _times(weight, clamped, dtype), None if bias is None else _times(bias, clamped, dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dweight: Tensor, dbias: Tensor | None) -> tuple[Tensor | None, ...]:
        weight, bias, gate = ctx.saved_tensors
        snapped = torch.where(gate < ctx.floor, 0.0, gate)
        dw = db = dgate = None
        if ctx.needs_input_grad[0]:
            dw = _times(dweight, snapped, weight.dtype)
        if bias is not None and dbias is not None and ctx.needs_input_grad[1]:
            db = _times(dbias, snapped, bias.dtype)
        if ctx.needs_input_grad[2]:
            dgate = _row_sums(dweight, weight).to(gate.dtype)
            if bias is not None and dbias is not None:
                dgate = dgate + _row_sums(dbias, bias).to(gate.dtype)
        return dw, db, dgate, None, None


def _times(values: Tensor, units: Tensor, dtype: torch.dtype) -> Tensor:
    """Row i of `values` times `units[i]`, in float32 or wider, then rounded to `dtype`."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return (values.to(wide) * units.to(wide).view(-1, *[1] * (values.dim() - 1))).to(dtype)


def _row_sums(left: Tensor, right: Tensor) -> Tensor:
    """[N] the sum of `left * right` over each row."""
    wide = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    return (left.to(wide) * right.to(wide)).sum(list(range(1, left.dim()))) if left.dim() > 1 else left.to(wide) * right


def folded_weight(
    weight: Tensor, bias: Tensor | None, gate: GateForm, dtype: torch.dtype, floor: float
) -> tuple[Tensor, Tensor | None]:
    """See `hat_kernels.folded_weight`."""
    assert gate.embedding is not None
    assert gate.scale is not None
    unfloored = soft_gate(gate.embedding, gate.scale, gate.s_max, gate.compensation, 0.0)
    folded: tuple[Tensor, Tensor | None] = _Fold.apply(weight, bias, unfloored, dtype, floor)
    return folded
