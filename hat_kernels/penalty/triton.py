"""The capacity penalty in one launch, and its gradient in another."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.device import gate_gradient, gate_value
from hat_kernels.operands import arrange
from hat_kernels.table import BLOCK_M, BLOCK_N, Operands, table
from hat_kernels.tile import EXTRA, FIELDS, NUMEL, PARAMETER, owner, typed

BLOCK = BLOCK_M * BLOCK_N  # elements of a program, in a table with one tile for each program
NUM_WARPS = 8


@triton.jit(do_not_specialize=["count"])
def penalty_kernel(rows_ptr, scale_ptr, value_ptr, total_ptr, count, BLOCK: tl.constexpr):
    """One program adds all units, always in the same order: a network has only a few thousand."""
    lane = tl.arange(0, BLOCK)
    scale = tl.load(scale_ptr)
    attention = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    gate = 0
    while gate < count:  # not range(): the interpreter of Triton 3.6 takes no tensor there
        row = rows_ptr + gate * FIELDS
        embedding_ptr = typed(tl.load(row + PARAMETER), 0)
        free_ptr = typed(tl.load(row + EXTRA), 0)
        units = tl.load(row + NUMEL).to(tl.int32)
        start = 0
        while start < units:
            inside = start + lane < units
            free = tl.load(free_ptr + start + lane, mask=inside, other=0.0)
            embedding = tl.load(embedding_ptr + start + lane, mask=inside, other=0.0)
            attention += gate_value(embedding, scale) * free
            total += free
            start += BLOCK
        gate += 1
    whole = tl.sum(total, 0)
    tl.store(total_ptr, whole)
    tl.store(value_ptr, tl.where(whole > 0, tl.sum(attention, 0) / tl.where(whole > 0, whole, 1.0), 0.0))


@triton.jit
def penalty_gradient_kernel(
    grad_ptr,
    rows_ptr,
    owners_ptr,
    scale_ptr,
    total_ptr,
    result_ptr,
    s_max,
    COMPENSATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, index = owner(rows_ptr, owners_ptr)
    row_offset = tl.load(owners_ptr + tl.program_id(0))
    offset = row_offset * 0
    first = row_offset * 0
    while offset < row_offset:  # adds the units of the gates whose gradients lie before those of this gate
        first += tl.load(rows_ptr + offset + NUMEL)
        offset += FIELDS
    offsets = index * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < tl.load(row + NUMEL)
    embedding = tl.load(typed(tl.load(row + PARAMETER), 0) + offsets, mask=mask, other=0.0)
    free = tl.load(typed(tl.load(row + EXTRA), 0) + offsets, mask=mask, other=0.0)
    total = tl.load(total_ptr)
    gate_grad = tl.where(total > 0, tl.load(grad_ptr) / tl.where(total > 0, total, 1.0), 0.0) * free
    gradient = gate_gradient(gate_grad, embedding, tl.load(scale_ptr), s_max, COMPENSATION)
    tl.store(result_ptr + first + offsets, gradient, mask=mask)


def value(embeddings: Sequence[Tensor], frees: Sequence[Tensor], scale: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """(R, the sum of `frees`); see `hat_kernels.penalty`. The kernel has its own copy of `floor`."""
    operands = _operands(embeddings, frees)
    if not operands:
        return torch.zeros((), device=scale.device), torch.zeros((), device=scale.device)
    result, total = torch.empty(2, dtype=torch.float32, device=scale.device).unbind()
    with torch.cuda.device_of(scale):
        pointer_table = table(operands, steps=1)
        penalty_kernel[(1,)](
            pointer_table.rows,
            scale,
            result,
            total,
            pointer_table.length,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
            enable_fp_fusion=True,
        )
    return result, total


def gradients(
    grad: Tensor,
    embeddings: Sequence[Tensor],
    frees: Sequence[Tensor],
    total: Tensor,
    scale: Tensor,
    s_max: float,
    compensation: str,
) -> list[Tensor]:
    """The gradients of the embeddings, one after the other in one piece of memory."""
    sizes = [len(embedding) for embedding in embeddings]
    result = torch.empty(sum(sizes), dtype=torch.float32, device=scale.device)
    operands = _operands(embeddings, frees)
    if operands:
        with torch.cuda.device_of(scale):
            pointer_table = table(operands, steps=1)
            penalty_gradient_kernel[(pointer_table.programs,)](
                grad,
                pointer_table.rows,
                pointer_table.owners,
                scale,
                total,
                result,
                s_max,
                COMPENSATION=compensation,
                BLOCK=BLOCK,
                num_warps=NUM_WARPS,
                enable_fp_fusion=True,
            )
    return list(result.split(sizes))


def _operands(embeddings: Sequence[Tensor], frees: Sequence[Tensor]) -> list[Operands]:
    """The gates as rows of a table; within a task the table is the same at every step."""
    return arrange(embeddings, embeddings, extras=[free.contiguous() for free in frees])[0]
