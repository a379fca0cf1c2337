"""Kernels for rows of units: x as [M, N], the units innermost; see `layout.py`."""

# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.device import dropout_keep
from hat_kernels.gated_activation.epilogue import (
    MAX_CHUNKS,
    PROGRAMS,
    SINGLE_PASS_ROWS,
    TILE_BYTES,
    Epilogue,
    Sums,
)
from hat_kernels.gated_activation.layout import Tiled, block, vector
from hat_kernels.gated_activation.tile import (
    backward_tile,
    forward_tile,
    load_bias,
    load_gate,
    load_row_gates,
    store_sums,
)

OPTIONS = {"num_warps": 4}
SEGMENT_BYTES = 512  # bytes of a row in a tile: the 128-bit loads of a warp


@triton.jit(do_not_specialize=["rows", "unit_vectors", "tasks", "stride_xm", "threshold"])
def gated_activation_rows_forward(
    x_ptr,
    y_ptr,
    bias_ptr,
    gate_ptr,
    scale_ptr,
    task_ptr,
    seed_ptr,
    rows,
    unit_vectors,
    tasks,
    rows_per_sample,
    stride_xm,
    threshold,
    keep_scale,
    ACTIVATION: tl.constexpr,
    GATE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute one tile of y."""
    DROPOUT: tl.constexpr = seed_ptr is not None
    units = unit_vectors * VECTOR  # tells the compiler that VECTOR divides this: it can load VECTOR at once
    unit_blocks = tl.cdiv(units, BLOCK_N)
    pid = tl.program_id(0)
    first_row = (pid // unit_blocks).to(tl.int64) * BLOCK_M
    first_unit = (pid % unit_blocks) * BLOCK_N
    row = first_row + tl.arange(0, BLOCK_M)
    unit = first_unit + tl.arange(0, BLOCK_N)
    inside_units = unit < units
    inside = (row < rows)[:, None] & inside_units[None, :]
    z = tl.load(x_ptr + tl.multiple_of(row * stride_xm, VECTOR)[:, None] + unit[None, :], mask=inside).to(tl.float32)
    if bias_ptr is not None:
        z += load_bias(bias_ptr, unit, inside_units)[None, :]
    gate = 1.0
    if GATE == "task":
        gate = load_row_gates(
            gate_ptr, task_ptr, first_row, row, rows, unit, inside, units, tasks, rows_per_sample, BLOCK_M
        )
    elif GATE != "none":
        gate = load_gate(gate_ptr, scale_ptr, unit, inside_units, GATE)[None, :]
    keep = True
    if DROPOUT:
        keep = dropout_keep(
            tl.load(seed_ptr), row, first_unit // 4, tl.cdiv(units, 4), threshold, BLOCK_M, BLOCK_N // 4
        )
    y = forward_tile(z, gate, keep, keep_scale, ACTIVATION, GATE, DROPOUT)
    y_ptrs = y_ptr + (row * units)[:, None] + unit[None, :]
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "unit_vectors", "tasks", "stride_dym", "stride_xm", "threshold"])
def gated_activation_rows_backward(
    dy_ptr,
    x_ptr,
    dx_ptr,
    dbias_ptr,
    dgate_ptr,
    bias_ptr,
    gate_ptr,
    scale_ptr,
    task_ptr,
    seed_ptr,
    rows,
    unit_vectors,
    tasks,
    rows_per_sample,
    stride_dym,
    stride_xm,
    threshold,
    keep_scale,
    s_max,
    ACTIVATION: tl.constexpr,
    GATE: tl.constexpr,
    COMPENSATION: tl.constexpr,
    FINAL: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute dx for the tiles of one chunk, and store the sums of the chunk over its rows."""
    DROPOUT: tl.constexpr = seed_ptr is not None
    units = unit_vectors * VECTOR
    unit_blocks = tl.cdiv(units, BLOCK_N)
    pid = tl.program_id(0)
    chunk, chunks = pid // unit_blocks, tl.num_programs(0) // unit_blocks
    first_unit = (pid % unit_blocks) * BLOCK_N
    unit = first_unit + tl.arange(0, BLOCK_N)
    inside_units = unit < units
    if bias_ptr is not None:
        bias = load_bias(bias_ptr, unit, inside_units)[None, :]
    gate = 1.0
    if (GATE == "embedding") | (GATE == "mask"):
        gate = load_gate(gate_ptr, scale_ptr, unit, inside_units, GATE)[None, :]
    dbias = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    dgate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    first_row = chunk.to(tl.int64) * BLOCK_M
    while first_row < rows:  # not range(): the interpreter of Triton 3.6 takes no tensor there
        row = first_row + tl.arange(0, BLOCK_M)
        inside = (row < rows)[:, None] & inside_units[None, :]
        dy_offsets = tl.multiple_of(row * stride_dym, VECTOR)[:, None] + unit[None, :]
        dy = tl.load(dy_ptr + dy_offsets, mask=inside, other=0.0).to(tl.float32)
        z = dy
        if x_ptr is not None:
            x_offsets = tl.multiple_of(row * stride_xm, VECTOR)[:, None] + unit[None, :]
            z = tl.load(x_ptr + x_offsets, mask=inside, other=0.0).to(tl.float32)
            if bias_ptr is not None:
                z += bias
        keep = True
        if DROPOUT:
            keep = dropout_keep(
                tl.load(seed_ptr), row, first_unit // 4, tl.cdiv(units, 4), threshold, BLOCK_M, BLOCK_N // 4
            )
        tile_gate = gate
        if GATE == "task":
            tile_gate = load_row_gates(
                gate_ptr, task_ptr, first_row, row, rows, unit, inside, units, tasks, rows_per_sample, BLOCK_M
            )
        dz, dgate_tile = backward_tile(dy, z, tile_gate, keep, keep_scale, ACTIVATION, GATE, DROPOUT)
        if dx_ptr is not None:
            dx_ptrs = dx_ptr + (row * units)[:, None] + unit[None, :]
            tl.store(dx_ptrs, dz.to(dx_ptr.dtype.element_ty), mask=inside)
        if dbias_ptr is not None:
            dbias += tl.where(inside, dz, 0.0)
        if dgate_ptr is not None:
            dgate += tl.where(inside, dgate_tile, 0.0)
        first_row += chunks.to(tl.int64) * BLOCK_M
    dbias, dgate, sum_offsets = tl.sum(dbias, 0), tl.sum(dgate, 0), chunk * units + unit
    store_sums(
        dbias_ptr,
        dgate_ptr,
        dbias,
        dgate,
        gate_ptr,
        scale_ptr,
        s_max,
        sum_offsets,
        unit,
        inside_units,
        COMPENSATION,
        FINAL,
    )


def forward_blocks(units: int, element_size: int) -> tuple[int, int]:
    """(BLOCK_M, BLOCK_N) of the forward kernel."""
    block_n = block(units, SEGMENT_BYTES // element_size)
    return TILE_BYTES // element_size // block_n, block_n


def forward(x: Tiled, y: Tensor, epilogue: Epilogue, samples: int) -> None:
    """Launch the kernel that fills `y`; `samples` is the number of samples if each has a task, else 1."""
    block_m, block_n = forward_blocks(x.units, x.tensor.element_size())
    width = vector(x.units, x.stride_outer)
    grid = (triton.cdiv(x.outer, block_m) * triton.cdiv(x.units, block_n),)
    with torch.cuda.device_of(y):
        gated_activation_rows_forward[grid](
            x_ptr=x.tensor,
            y_ptr=y,
            rows=x.outer,
            unit_vectors=x.units // width,
            rows_per_sample=x.outer // samples,
            stride_xm=x.stride_outer,
            VECTOR=width,
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            **epilogue.values(),
            **OPTIONS,
            enable_fp_fusion=True,
        )


def backward_blocks(rows: int, units: int, element_size: int, sums: bool) -> tuple[int, int, int]:
    """(BLOCK_M, BLOCK_N, chunks) of the backward kernel; `sums`: whether sums over columns are needed."""
    if sums and rows <= SINGLE_PASS_ROWS:
        return 64, 32, 1
    block_n = block(units, SEGMENT_BYTES // element_size)
    block_m = TILE_BYTES // 2 // element_size // block_n  # dy and x are both read
    chunks = triton.cdiv(rows, block_m)
    if sums:
        chunks = min(chunks, MAX_CHUNKS, max(1, PROGRAMS // triton.cdiv(units, block_n)))
    return block_m, block_n, chunks


def backward(
    dy: Tiled,
    x: Tiled | None,
    dx: Tensor | None,
    dbias: Tensor | None,
    dgate: Tensor | None,
    epilogue: Epilogue,
    samples: int,
) -> Sums:
    """Launch the kernel, and return the column sums."""
    wants_sums = dbias is not None or dgate is not None
    block_m, block_n, chunks = backward_blocks(dy.outer, dy.units, dy.tensor.element_size(), wants_sums)
    sums = Sums.of(dbias, dgate, chunks)
    stride_xm = x.stride_outer if x else 0
    width = vector(dy.units, dy.stride_outer, stride_xm)
    grid = (chunks * triton.cdiv(dy.units, block_n),)
    with torch.cuda.device_of(dy.tensor):
        gated_activation_rows_backward[grid](
            dy_ptr=dy.tensor,
            x_ptr=x.tensor if x else None,
            dx_ptr=dx,
            dbias_ptr=sums.dbias_partial,
            dgate_ptr=sums.dgate_partial,
            rows=dy.outer,
            unit_vectors=dy.units // width,
            rows_per_sample=dy.outer // samples,
            stride_dym=dy.stride_outer,
            stride_xm=stride_xm,
            s_max=epilogue.gate.s_max,
            COMPENSATION=epilogue.gate.compensation,
            FINAL=chunks == 1,
            VECTOR=width,
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            **epilogue.values(),
            **OPTIONS,
            enable_fp_fusion=True,
        )
    return sums
