"""The kernel for the gradient of x. The prologue of the matmul computes dz, the gradient of z, and stores dz for dW."""

# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.device import dropout_keep
from hat_kernels.gated_activation.epilogue import Epilogue, Sums
from hat_kernels.gated_activation.tile import backward_tile, load_gate, load_row_gates, store_sums
from hat_kernels.gated_linear.blocks import MatmulBlock
from hat_kernels.gated_linear.matmul import constants, indices, matrix, parts_of, programs, tile_of


@triton.jit(do_not_specialize=["rows", "tasks", "frozen_rows", "threshold"])
def gated_linear_backward(
    dy_ptr,
    z_ptr,
    weight_ptr,
    dx_ptr,
    dz_ptr,
    dbias_ptr,
    dgate_ptr,
    gate_ptr,
    scale_ptr,
    task_ptr,
    seed_ptr,
    rows,
    units,
    depth,
    tasks,
    rows_per_sample,
    frozen_rows,
    stride_dym,
    stride_dyn,
    stride_wn,
    stride_wk,
    threshold,
    keep_scale,
    s_max,
    ACTIVATION: tl.constexpr,
    GATE: tl.constexpr,
    COMPENSATION: tl.constexpr,
    FINAL: tl.constexpr,
    PRECISION: tl.constexpr,
    STEPS: tl.constexpr,
    GROUP_M: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,
):
    """One tile [BLOCK_M, BLOCK_N] of dx [rows, depth]; the sum over the units has steps of BLOCK_K.

    Each tile computes dz of its rows by itself. The tiles of the first column also store dz, and its sums over their
    rows: one chunk of the partial sums of `gated_activation/tile.py`.
    """
    DROPOUT: tl.constexpr = seed_ptr is not None
    tile_m, tile_n = tile_of(tl.program_id(0), tl.cdiv(rows, BLOCK_M), tl.cdiv(depth, BLOCK_N), GROUP_M)
    row, column = indices(tile_m, BLOCK_M), indices(tile_n, BLOCK_N)
    unit = tl.arange(0, BLOCK_K)
    inside_rows, inside_columns = (row < rows)[:, None], (column < depth)[None, :]
    dy_ptrs = matrix(dy_ptr, row, unit, stride_dym, stride_dyn)
    offsets = (row * units)[:, None] + unit[None, :]
    weight_ptrs = matrix(weight_ptr, unit, column, stride_wn, stride_wk)
    dx = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, tl.cdiv(units, BLOCK_K) if STEPS is None else STEPS):
        inside_units = unit < units
        inside = inside_rows & inside_units[None, :]
        weight = tl.load(weight_ptrs, mask=inside_units[:, None] & inside_columns, other=0.0)
        dy = tl.load(dy_ptrs, mask=inside, other=0.0).to(tl.float32)
        z = dy
        if z_ptr is not None:
            z = tl.load(z_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        gate = 1.0
        if GATE == "task":
            first_row = tile_m.to(tl.int64) * BLOCK_M
            gate = load_row_gates(
                gate_ptr, task_ptr, first_row, row, rows, unit, inside, units, tasks, rows_per_sample, BLOCK_M
            )
        elif GATE != "none":
            gate = load_gate(gate_ptr, scale_ptr, unit, inside_units, GATE)[None, :]
        keep = True
        if DROPOUT:
            keep = dropout_keep(
                tl.load(seed_ptr), row, step * (BLOCK_K // 4), tl.cdiv(units, 4), threshold, BLOCK_M, BLOCK_K // 4
            )
        dz, dgate = backward_tile(dy, z, gate, keep, keep_scale, ACTIVATION, GATE, DROPOUT)
        dz = tl.where(inside, dz, 0.0)
        dx = tl.dot(dz.to(dx_ptr.dtype.element_ty), weight, dx, input_precision=PRECISION)
        if tile_n == 0:
            if dz_ptr is not None:
                tl.store(dz_ptr + offsets, dz.to(dz_ptr.dtype.element_ty), mask=inside)
            if (dbias_ptr is not None) | (dgate_ptr is not None):
                dbias = tl.where(unit < frozen_rows, 0.0, tl.sum(dz, 0))
                dgate_sum = tl.sum(tl.where(inside, dgate, 0.0), 0)
                chunk = tile_m.to(tl.int64) * units + unit
                store_sums(
                    dbias_ptr, dgate_ptr, dbias, dgate_sum, gate_ptr, scale_ptr, s_max, chunk, unit, inside_units,
                    COMPENSATION, FINAL,
                )  # fmt: skip
        unit += BLOCK_K
        offsets += BLOCK_K
        dy_ptrs += BLOCK_K * stride_dyn
        weight_ptrs += BLOCK_K * stride_wn
    parts = parts_of(dx, BLOCK_M, BLOCK_N, PARTS)
    for part in tl.static_range(PARTS):
        column = indices(tile_n * PARTS + part, BLOCK_N // PARTS)
        dx_ptrs = dx_ptr + (row * depth)[:, None] + column[None, :]
        tl.store(dx_ptrs, parts[part].to(dx_ptr.dtype.element_ty), mask=inside_rows & (column < depth)[None, :])


def backward(
    dy: Tensor,
    z: Tensor | None,
    weight: Tensor,
    dx: Tensor,
    dz: Tensor | None,
    dbias: Tensor | None,
    dgate: Tensor | None,
    epilogue: Epilogue,
    samples: int,
    frozen_rows: int,
    block: MatmulBlock,
) -> Sums:
    """Fill `dx` [M, K] and `dz` [M, N], and return the column sums."""
    (rows, units), depth = dy.shape, weight.shape[1]
    sums = Sums.of(dbias, dgate, triton.cdiv(rows, block.m))
    values = epilogue.values()
    del values["bias_ptr"]  # z contains the bias
    with torch.cuda.device_of(dx):
        gated_linear_backward[programs(block, rows, depth, dy.device)](
            dy_ptr=dy,
            z_ptr=z,
            weight_ptr=weight,
            dx_ptr=dx,
            dz_ptr=dz,
            dbias_ptr=sums.dbias_partial,
            dgate_ptr=sums.dgate_partial,
            rows=rows,
            units=units,
            depth=depth,
            rows_per_sample=rows // samples,
            frozen_rows=frozen_rows,
            stride_dym=dy.stride(0),
            stride_dyn=dy.stride(1),
            stride_wn=weight.stride(0),
            stride_wk=weight.stride(1),
            s_max=epilogue.gate.s_max,
            COMPENSATION=epilogue.gate.compensation,
            FINAL=sums.chunks == 1,
            **values,
            **constants(block, dy, units),
        )
    return sums
