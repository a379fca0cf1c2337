"""Kernels for the gate and its compensated derivative, one launch each."""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.device import gate_gradient, gate_value

BLOCK = 512
OPTIONS = {"num_warps": 4}


@triton.jit(do_not_specialize=["units"])
def gate_forward(embedding_ptr, scale_ptr, gate_ptr, units, BLOCK: tl.constexpr):
    """Store the gate of each unit."""
    unit = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = unit < units
    embedding = tl.load(embedding_ptr + unit, mask=inside)
    tl.store(gate_ptr + unit, gate_value(embedding, tl.load(scale_ptr)), mask=inside)


@triton.jit(do_not_specialize=["units"])
def gate_backward(
    grad_ptr, embedding_ptr, scale_ptr, result_ptr, units, s_max, COMPENSATION: tl.constexpr, BLOCK: tl.constexpr
):
    """Store the gradient of each embedding in `result_ptr`, from `grad_ptr`, the gradient of the gate."""
    unit = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = unit < units
    grad = tl.load(grad_ptr + unit, mask=inside)
    embedding = tl.load(embedding_ptr + unit, mask=inside)
    result = gate_gradient(grad, embedding, tl.load(scale_ptr), s_max, COMPENSATION)
    tl.store(result_ptr + unit, result, mask=inside)


def gate(embedding: Tensor, scale: Tensor, s_max: float, compensation: str) -> Tensor:
    """See `hat_kernels.gate`."""
    return _gate(embedding, scale, s_max, compensation)


@torch.library.custom_op("hat_kernels::gate", mutates_args=())
def _gate(embedding: Tensor, scale: Tensor, s_max: float, compensation: str) -> Tensor:
    result = torch.empty(embedding.shape, dtype=embedding.dtype, device=embedding.device)
    if embedding.numel():
        with torch.cuda.device_of(embedding):
            grid = (triton.cdiv(embedding.numel(), BLOCK),)
            gate_forward[grid](
                embedding.contiguous(), scale, result, embedding.numel(), BLOCK, **OPTIONS, enable_fp_fusion=True
            )
    return result


@torch.library.custom_op("hat_kernels::gate_backward", mutates_args=())
def _gate_backward(grad: Tensor, embedding: Tensor, scale: Tensor, s_max: float, compensation: str) -> Tensor:
    result = torch.empty(embedding.shape, dtype=embedding.dtype, device=embedding.device)
    if embedding.numel():
        with torch.cuda.device_of(embedding):
            grid = (triton.cdiv(embedding.numel(), BLOCK),)
            gate_backward[grid](
                grad.contiguous(),
                embedding.contiguous(),
                scale,
                result,
                embedding.numel(),
                s_max,
                compensation,
                BLOCK,
                **OPTIONS,
                enable_fp_fusion=True,
            )
    return result


@_gate.register_fake
def _(embedding: Tensor, scale: Tensor, s_max: float, compensation: str) -> Tensor:
    return torch.empty(embedding.shape, dtype=embedding.dtype, device=embedding.device)


@_gate_backward.register_fake
def _(grad: Tensor, embedding: Tensor, scale: Tensor, s_max: float, compensation: str) -> Tensor:
    return torch.empty(embedding.shape, dtype=embedding.dtype, device=embedding.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    embedding, scale, ctx.s_max, ctx.compensation = inputs
    ctx.save_for_backward(embedding, scale)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return _gate_backward(grad, *ctx.saved_tensors, ctx.s_max, ctx.compensation), None, None, None


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("gate: differentiable once, got a second backward")


_gate.register_autograd(_backward, setup_context=_save)
_gate_backward.register_autograd(_refuse)
