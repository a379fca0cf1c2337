"""Launch and registration of the kernels that fold a gate into a weight."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from hat_kernels.folded_weight.kernel import (
    OPTIONS,
    backward_blocks,
    blocks,
    folded_weight_backward,
    folded_weight_forward,
)
from hat_kernels.gate.form import GateForm
from hat_kernels.gated_activation.layout import Tiled, allocate, memory_order, tiled, vector
from hat_kernels.gated_activation.tile import SUMS, SUMS_OPTIONS, gated_activation_sums


def folded_weight(
    weight: Tensor, bias: Tensor | None, gate: GateForm, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """See `hat_kernels.folded_weight`."""
    folded, folded_bias = _folded_weight(weight, bias, gate.embedding, gate.scale, gate.s_max, gate.compensation, dtype)
    return folded, None if bias is None else folded_bias


@torch.library.custom_op("hat_kernels::folded_weight", mutates_args=())
def _folded_weight(
    weight: Tensor,
    bias: Tensor | None,
    embedding: Tensor,
    scale: Tensor,
    s_max: float,
    compensation: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """(folded weight, folded bias); the second is empty without a bias."""
    order = _units_first(weight)
    folded, folded_bias = allocate(weight, order, dtype), _vector(weight, bias is not None, dtype)
    if weight.shape[0]:
        view = tiled(weight, order, 0)
        block_m, block_n = blocks(view.units, view.inner)
        width = vector(view.inner, view.stride_units)
        tiles_per_row = max(1, triton.cdiv(view.inner, block_n))
        with torch.cuda.device_of(weight):
            folded_weight_forward[(triton.cdiv(view.units, block_m) * tiles_per_row,)](
                weight_ptr=view.tensor,
                bias_ptr=None if bias is None else bias.contiguous(),
                embedding_ptr=embedding.contiguous(),
                scale_ptr=scale,
                folded_ptr=folded,
                folded_bias_ptr=None if bias is None else folded_bias,
                units=view.units,
                row_vectors=view.inner // width,
                stride_weight=view.stride_units,
                VECTOR=width,
                BLOCK_M=block_m,
                BLOCK_N=block_n,
                **OPTIONS,
                enable_fp_fusion=True,
            )
    return folded, folded_bias


@torch.library.custom_op("hat_kernels::folded_weight_backward", mutates_args=())
def _folded_weight_backward(
    dfolded: Tensor,
    dfolded_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    embedding: Tensor,
    scale: Tensor,
    s_max: float,
    compensation: str,
    needs_weight: bool,
    needs_bias: bool,
    needs_embedding: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dweight, dbias, dembedding), each empty unless needed."""
    order = _units_first(weight)
    results = _results(weight, bias, order, needs_weight, needs_bias, needs_embedding)
    if weight.shape[0]:
        dweight, dbias, dembedding = (
            result if needed else None
            for result, needed in zip(results, (needs_weight, needs_bias, needs_embedding), strict=True)
        )
        _launch_backward(
            tiled(dfolded, order, 0),
            dfolded_bias if bias is not None else None,
            tiled(weight, order, 0),
            bias,
            GateForm(embedding.contiguous(), scale, s_max=s_max, compensation=compensation),
            dweight,
            dbias,
            dembedding,
        )
    return results


def _launch_backward(
    dfolded: Tiled,
    dfolded_bias: Tensor | None,
    weight: Tiled,
    bias: Tensor | None,
    gate: GateForm,
    dweight: Tensor | None,
    dbias: Tensor | None,
    dembedding: Tensor | None,
) -> None:
    block_m, block_n, chunks = backward_blocks(weight.units, weight.inner, dembedding is not None)
    width = vector(weight.inner, weight.stride_units, dfolded.stride_units)
    sums = dembedding
    if dembedding is not None and chunks > 1:
        sums = torch.empty((chunks, weight.units), dtype=torch.float32, device=dembedding.device)
    with torch.cuda.device_of(weight.tensor):
        folded_weight_backward[(chunks * triton.cdiv(weight.units, block_m),)](
            dfolded_ptr=dfolded.tensor,
            dfolded_bias_ptr=None if dfolded_bias is None else dfolded_bias.contiguous(),
            weight_ptr=weight.tensor,
            bias_ptr=None if bias is None else bias.contiguous(),
            embedding_ptr=gate.embedding,
            scale_ptr=gate.scale,
            dweight_ptr=dweight,
            dbias_ptr=dbias,
            dembedding_ptr=sums,
            units=weight.units,
            row_vectors=weight.inner // width,
            stride_dfolded=dfolded.stride_units,
            stride_weight=weight.stride_units,
            s_max=gate.s_max,
            COMPENSATION=gate.compensation,
            FINAL=chunks == 1,
            VECTOR=width,
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            **OPTIONS,
            enable_fp_fusion=True,
        )
        if sums is not dembedding:
            gated_activation_sums[(triton.cdiv(weight.units, SUMS["BLOCK_N"]),)](
                dbias_partial_ptr=None,
                dgate_partial_ptr=sums,
                dbias_ptr=None,
                dgate_ptr=dembedding,
                gate_ptr=gate.embedding,
                scale_ptr=gate.scale,
                chunks=chunks,
                units=weight.units,
                s_max=gate.s_max,
                COMPENSATION=gate.compensation,
                **SUMS,
                **SUMS_OPTIONS,
                enable_fp_fusion=True,
            )


def _units_first(weight: Tensor) -> list[int]:
    """The dimensions in the order of memory, but dimension 0 first: every unit is then one row."""
    return [0, *(dim for dim in memory_order(weight, False) if dim)]


def _vector(weight: Tensor, filled: bool, dtype: torch.dtype) -> Tensor:
    return torch.empty(weight.shape[0] if filled else 0, dtype=dtype, device=weight.device)


def _results(
    weight: Tensor, bias: Tensor | None, order: list[int], needs_weight: bool, needs_bias: bool, needs_embedding: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dweight = allocate(weight, order) if needs_weight else _vector(weight, False, weight.dtype)
    dbias = _vector(weight, bias is not None and needs_bias, weight.dtype if bias is None else bias.dtype)
    return dweight, dbias, _vector(weight, needs_embedding, torch.float32)


@_folded_weight.register_fake
def _(
    weight: Tensor,
    bias: Tensor | None,
    embedding: Tensor,
    scale: Tensor,
    s_max: float,
    compensation: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    return allocate(weight, _units_first(weight), dtype), _vector(weight, bias is not None, dtype)


@_folded_weight_backward.register_fake
def _(
    dfolded: Tensor, dfolded_bias: Tensor | None, weight: Tensor, bias: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _results(weight, bias, _units_first(weight), *options[-3:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    weight, bias, embedding, scale, ctx.s_max, ctx.compensation, _ = inputs
    ctx.save_for_backward(weight, bias, embedding, scale)


def _backward(ctx: Any, dfolded: Tensor, dfolded_bias: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:3]
    saved = ctx.saved_tensors
    results = _folded_weight_backward(dfolded, dfolded_bias, *saved, ctx.s_max, ctx.compensation, *needs)
    return *(result if needed else None for result, needed in zip(results, needs, strict=True)), *[None] * 4


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("folded_weight: differentiable once, got a second backward")


_folded_weight.register_autograd(_backward, setup_context=_save)
_folded_weight_backward.register_autograd(_refuse)
