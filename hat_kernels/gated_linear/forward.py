"""The forward kernel: a matmul whose epilogue computes `dropout(activation(z)) * gate` of `z = x W^T + bias`."""

# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.device import dropout_keep
from hat_kernels.gated_activation.epilogue import Epilogue
from hat_kernels.gated_activation.tile import forward_tile, load_bias, load_gate, load_row_gates
from hat_kernels.gated_linear.blocks import MatmulBlock
from hat_kernels.gated_linear.matmul import constants, indices, matrix, parts_of, programs, tile_of


@triton.jit
def _linear_tile(
    x_ptr,
    weight_ptr,
    row,
    unit,
    rows,
    units,
    depth,
    stride_xm,
    stride_xk,
    stride_wn,
    stride_wk,
    PRECISION: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """[BLOCK_M, BLOCK_N] of x W^T."""
    k = tl.arange(0, BLOCK_K)
    x_ptrs = matrix(x_ptr, row, k, stride_xm, stride_xk)
    weight_ptrs = matrix(weight_ptr, k, unit, stride_wk, stride_wn)
    inside_rows, inside_units = (row < rows)[:, None], (unit < units)[None, :]
    product = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, tl.cdiv(depth, BLOCK_K) if STEPS is None else STEPS):
        inside = k < depth - step * BLOCK_K
        x = tl.load(x_ptrs, mask=inside_rows & inside[None, :], other=0.0)
        weight = tl.load(weight_ptrs, mask=inside[:, None] & inside_units, other=0.0)
        product = tl.dot(x, weight, product, input_precision=PRECISION)
        x_ptrs += BLOCK_K * stride_xk
        weight_ptrs += BLOCK_K * stride_wk
    return product


@triton.jit
def _gated_linear_tile(
    tile_m,
    tile_n,
    x_ptr,
    weight_ptr,
    y_ptr,
    z_ptr,
    bias_ptr,
    gate_ptr,
    scale_ptr,
    task_ptr,
    seed_ptr,
    rows,
    units,
    depth,
    tasks,
    rows_per_sample,
    stride_xm,
    stride_xk,
    stride_wn,
    stride_wk,
    threshold,
    keep_scale,
    ACTIVATION: tl.constexpr,
    GATE: tl.constexpr,
    PRECISION: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Compute a tile of y, and of z if `z_ptr` is given."""
    DROPOUT: tl.constexpr = seed_ptr is not None
    WIDTH: tl.constexpr = BLOCK_N // PARTS
    row = indices(tile_m, BLOCK_M)
    product = _linear_tile(
        x_ptr, weight_ptr, row, indices(tile_n, BLOCK_N), rows, units, depth,
        stride_xm, stride_xk, stride_wn, stride_wk, PRECISION, STEPS, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    parts = parts_of(product, BLOCK_M, BLOCK_N, PARTS)
    for part in tl.static_range(PARTS):
        z = parts[part]
        unit = indices(tile_n * PARTS + part, WIDTH)
        inside_units = unit < units
        inside = (row < rows)[:, None] & inside_units[None, :]
        offsets = (row * units)[:, None] + unit[None, :]
        if bias_ptr is not None:
            z += load_bias(bias_ptr, unit, inside_units)[None, :]
        if z_ptr is not None:
            tl.store(z_ptr + offsets, z.to(z_ptr.dtype.element_ty), mask=inside)
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
            first_quad = (tile_n * PARTS + part) * (WIDTH // 4)
            keep = dropout_keep(tl.load(seed_ptr), row, first_quad, tl.cdiv(units, 4), threshold, BLOCK_M, WIDTH // 4)
        y = forward_tile(z, gate, keep, keep_scale, ACTIVATION, GATE, DROPOUT)
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "tasks", "threshold"])
def gated_linear_forward(
    x_ptr,
    weight_ptr,
    y_ptr,
    z_ptr,
    bias_ptr,
    gate_ptr,
    scale_ptr,
    task_ptr,
    seed_ptr,
    rows,
    units,
    depth,
    tasks,
    rows_per_sample,
    stride_xm,
    stride_xk,
    stride_wn,
    stride_wk,
    threshold,
    keep_scale,
    ACTIVATION: tl.constexpr,
    GATE: tl.constexpr,
    PRECISION: tl.constexpr,
    STEPS: tl.constexpr,
    PERSISTENT: tl.constexpr,
    GROUP_M: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,
):
    """One tile for each program, or with PERSISTENT every num_programs-th tile."""
    tiles_m, tiles_n = tl.cdiv(rows, BLOCK_M), tl.cdiv(units, BLOCK_N)
    program = tl.program_id(0)
    if PERSISTENT:
        while program < tiles_m * tiles_n:
            tile_m, tile_n = tile_of(program, tiles_m, tiles_n, GROUP_M)
            _gated_linear_tile(
                tile_m, tile_n, x_ptr, weight_ptr, y_ptr, z_ptr, bias_ptr, gate_ptr, scale_ptr, task_ptr, seed_ptr,
                rows, units, depth, tasks, rows_per_sample, stride_xm, stride_xk, stride_wn, stride_wk,
                threshold, keep_scale, ACTIVATION, GATE, PRECISION, STEPS, BLOCK_M, BLOCK_N, BLOCK_K, PARTS,
            )  # fmt: skip
            program += tl.num_programs(0)
    else:
        tile_m, tile_n = tile_of(program, tiles_m, tiles_n, GROUP_M)
        _gated_linear_tile(
            tile_m, tile_n, x_ptr, weight_ptr, y_ptr, z_ptr, bias_ptr, gate_ptr, scale_ptr, task_ptr, seed_ptr,
            rows, units, depth, tasks, rows_per_sample, stride_xm, stride_xk, stride_wn, stride_wk,
            threshold, keep_scale, ACTIVATION, GATE, PRECISION, STEPS, BLOCK_M, BLOCK_N, BLOCK_K, PARTS,
        )  # fmt: skip


def forward(
    x: Tensor, weight: Tensor, y: Tensor, z: Tensor | None, epilogue: Epilogue, samples: int, block: MatmulBlock
):
    """Fill `y` [M, N], and `z` [M, N] if given; `x` is [M, K] and `weight` [N, K], both of any strides."""
    (rows, depth), units = x.shape, weight.shape[0]
    with torch.cuda.device_of(y):
        gated_linear_forward[programs(block, rows, units, x.device)](
            x_ptr=x,
            weight_ptr=weight,
            y_ptr=y,
            z_ptr=z,
            rows=rows,
            units=units,
            depth=depth,
            rows_per_sample=rows // samples,
            stride_xm=x.stride(0),
            stride_xk=x.stride(1),
            stride_wn=weight.stride(0),
            stride_wk=weight.stride(1),
            PERSISTENT=block.persistent,
            **epilogue.values(),
            **constants(block, x, depth),
        )
