"""Launch and registration of the kernels of `rows.py` and `planes.py`: one pass forward, and one backward."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from hat_kernels.gate.form import GateForm
from hat_kernels.gated_activation import planes, rows
from hat_kernels.gated_activation.epilogue import Epilogue, Sums
from hat_kernels.gated_activation.layout import allocate, memory_order, tiled
from hat_kernels.gated_activation.tile import SUMS, SUMS_OPTIONS, gated_activation_sums


@torch.library.custom_op("hat_kernels::gated_activation", mutates_args=())
def gated_activation(
    x: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    embedding: Tensor | None,
    scale: Tensor | None,
    mask: Tensor | None,
    task: Tensor | None,
    s_max: float,
    compensation: str,
    activation: str,
    dropout: float,
    unit_dim: int,
) -> Tensor:
    """See `hat_kernels.gated_activation`; `seed` is [1] int64 if `dropout` is not 0."""
    order = memory_order(x, task is not None)
    y = allocate(x, order)
    if x.numel():
        gate = GateForm(embedding, scale, mask, task, s_max, compensation)
        epilogue = Epilogue.of(bias, seed, gate, activation, dropout)
        view = tiled(x, order, unit_dim)
        (rows if view.inner == 1 else planes).forward(view, y, epilogue, x.shape[0] if task is not None else 1)
    return y


@torch.library.custom_op("hat_kernels::gated_activation_backward", mutates_args=())
def gated_activation_backward(
    dy: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    embedding: Tensor | None,
    scale: Tensor | None,
    mask: Tensor | None,
    task: Tensor | None,
    s_max: float,
    compensation: str,
    activation: str,
    dropout: float,
    unit_dim: int,
    needs_x: bool,
    needs_bias: bool,
    needs_embedding: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dbias, dembedding), each empty unless needed; `x` may be None if no result depends on it."""
    like = dy if x is None else x
    order = memory_order(like, task is not None)
    results = _results(like, order, bias, embedding, needs_x, needs_bias, needs_embedding)
    if not dy.numel():
        for result in results:
            result.zero_()
        return results
    gate = GateForm(embedding, scale, mask, task, s_max, compensation)
    epilogue = Epilogue.of(bias, seed, gate, activation, dropout)
    dx, dbias, dgate = (
        result if needed else None
        for result, needed in zip(results, (needs_x, needs_bias, needs_embedding), strict=True)
    )
    gradient = tiled(dy, order, unit_dim)
    sums = (rows if gradient.inner == 1 else planes).backward(
        gradient,
        None if x is None else tiled(x, order, unit_dim),
        dx,
        dbias,
        dgate,
        epilogue,
        dy.shape[0] if task is not None else 1,
    )
    if sums.chunks > 1 and (needs_bias or needs_embedding):
        add_sums(sums, epilogue, gradient.units)
    return results


def _results(
    like: Tensor,
    order: list[int],
    bias: Tensor | None,
    embedding: Tensor | None,
    needs_x: bool,
    needs_bias: bool,
    needs_embedding: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = allocate(like, order) if needs_x else torch.empty(0, device=like.device)
    dbias = torch.empty(
        bias.shape if bias is not None and needs_bias else (0,),
        dtype=bias.dtype if bias is not None else None,
        device=like.device,
    )
    dembedding = torch.empty(
        embedding.shape if embedding is not None and needs_embedding else (0,), device=like.device, dtype=torch.float32
    )
    return dx, dbias, dembedding


def add_sums(sums: Sums, epilogue: Epilogue, units: int) -> None:
    """Add the partial sums of several chunks."""
    with torch.cuda.device_of(sums.dbias if sums.dbias is not None else sums.dgate):
        gated_activation_sums[(triton.cdiv(units, SUMS["BLOCK_N"]),)](
            dbias_partial_ptr=sums.dbias_partial,
            dgate_partial_ptr=sums.dgate_partial,
            dbias_ptr=sums.dbias,
            dgate_ptr=sums.dgate,
            gate_ptr=epilogue.gate.embedding if sums.dgate is not None else None,
            scale_ptr=epilogue.gate.scale if sums.dgate is not None else None,
            chunks=sums.chunks,
            units=units,
            s_max=epilogue.gate.s_max,
            COMPENSATION=epilogue.gate.compensation,
            **SUMS,
            **SUMS_OPTIONS,
            enable_fp_fusion=True,
        )


@gated_activation.register_fake
def _(
    x: Tensor, bias: Any, seed: Any, embedding: Any, scale: Any, mask: Any, task: Tensor | None, *options: Any
) -> Tensor:
    return allocate(x, memory_order(x, task is not None))


@gated_activation_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    embedding: Tensor | None,
    scale: Tensor | None,
    mask: Tensor | None,
    task: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    like = dy if x is None else x
    return _results(like, memory_order(like, task is not None), bias, embedding, *options[-3:])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, seed, *gate, activation, dropout, unit_dim = inputs
    *gate_tensors, s_max, compensation = gate
    ctx.options = s_max, compensation, activation, dropout, unit_dim
    reads_x = activation != "identity" or seed is not None or ctx.needs_input_grad[3]
    ctx.save_for_backward(x if reads_x else None, bias, seed, *gate_tensors)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    needs_x, needs_bias, _, needs_embedding, *_ = ctx.needs_input_grad
    needs = (needs_x, needs_bias, needs_embedding)
    results = gated_activation_backward(dy, *ctx.saved_tensors, *ctx.options, *needs)
    dx, dbias, dembedding = (result if needed else None for result, needed in zip(results, needs, strict=True))
    return dx, dbias, None, dembedding, *[None] * 8


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("gated_activation: differentiable once, got a second backward")


gated_activation.register_autograd(_backward, setup_context=_setup_context)
gated_activation_backward.register_autograd(_refuse)
