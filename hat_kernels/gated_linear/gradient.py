"""The kernel for the gradient of the weight. Its epilogue can make the step of SGD instead of storing the gradient."""

# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.device import rate_of
from hat_kernels.gated_linear.blocks import MatmulBlock
from hat_kernels.gated_linear.matmul import constants, indices, matrix, parts_of, programs, tile_of
from hat_kernels.lock import Lock, contiguous
from hat_kernels.operands import number_or_scalar
from hat_kernels.sgd_update.options import SGDOptions
from hat_kernels.tile import bounded, mended


@triton.jit
def _free(free_ptr, index, count, repeat, BLOCK: tl.constexpr):
    """[BLOCK] the free units along one side of a tile; 0 if the lock has none along this side."""
    free = tl.zeros((BLOCK,), tl.float32)
    if free_ptr is not None:
        free = tl.load(free_ptr + index // repeat, mask=index < count, other=0.0)
    return free


@triton.jit
def _moved(
    weight,
    gradient,
    rate,
    lr_ptr,
    lr,
    sign,
    weight_decay,
    LOCKED: tl.constexpr,
    DECAY: tl.constexpr,
    MEND: tl.constexpr,
):
    """The weight after the step of `hat_kernels.sgd_update_` without momentum."""
    if MEND:
        gradient = mended(gradient)
    step = gradient * sign
    wide = weight.to(tl.float32)
    if DECAY:
        step += weight_decay * wide
    if lr_ptr is not None:
        lr = tl.load(lr_ptr)
    if LOCKED:
        step = rate * step
    after = (wide - lr * step).to(weight.dtype)
    if LOCKED:
        if MEND:
            after = bounded(after)
        after = tl.where(rate == 0, weight, after)
    return after


@triton.jit(do_not_specialize=["rows", "frozen_rows", "frozen_columns", "row_repeat", "column_repeat"])
def gated_linear_gradient(
    dz_ptr,
    x_ptr,
    out_ptr,
    free_rows_ptr,
    free_columns_ptr,
    lr_ptr,
    rows,
    units,
    depth,
    frozen_rows,
    frozen_columns,
    row_repeat,
    column_repeat,
    stride_dzm,
    stride_dzn,
    stride_xm,
    stride_xk,
    stride_on,
    stride_ok,
    lr,
    sign,
    weight_decay,
    UPDATE: tl.constexpr,
    DECAY: tl.constexpr,
    MEND: tl.constexpr,
    PRECISION: tl.constexpr,
    STEPS: tl.constexpr,
    GROUP_M: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,
):
    """One tile [BLOCK_M, BLOCK_N] of a matrix [units, depth]; the sum over the rows of dz and x has steps of BLOCK_K.

    Without UPDATE, `out = rate * dz^T x`. With UPDATE, `out -= lr * rate * (dz^T x + weight_decay * out)`. The rate is
    0 in the frozen block. A tile with rate 0 everywhere reads its free units and nothing else.
    """
    LOCKED: tl.constexpr = (free_rows_ptr is not None) or (free_columns_ptr is not None)
    WIDTH: tl.constexpr = BLOCK_N // PARTS
    tile_m, tile_n = tile_of(tl.program_id(0), tl.cdiv(units, BLOCK_M), tl.cdiv(depth, BLOCK_N), GROUP_M)
    unit, column = indices(tile_m, BLOCK_M), indices(tile_n, BLOCK_N)
    inside_units = (unit < units)[:, None]
    moves = ((tile_m + 1) * BLOCK_M > frozen_rows) | ((tile_n + 1) * BLOCK_N > frozen_columns)
    if LOCKED:
        free_rows = _free(free_rows_ptr, unit, units, row_repeat, BLOCK_M)
        free_columns = _free(free_columns_ptr, column, depth, column_repeat, BLOCK_N)
        moves = moves & ((tl.max(free_rows, 0) > 0) | (tl.max(free_columns, 0) > 0))
    if moves:
        inside_columns = (column < depth)[None, :]
        k = tl.arange(0, BLOCK_K)
        dz_ptrs = matrix(dz_ptr, unit, k, stride_dzn, stride_dzm)
        x_ptrs = matrix(x_ptr, k, column, stride_xm, stride_xk)
        product = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for step in range(0, tl.cdiv(rows, BLOCK_K) if STEPS is None else STEPS):
            inside_rows = k < rows - step * BLOCK_K
            dz = tl.load(dz_ptrs, mask=inside_units & inside_rows[None, :], other=0.0)
            x = tl.load(x_ptrs, mask=inside_rows[:, None] & inside_columns, other=0.0)
            product = tl.dot(dz, x, product, input_precision=PRECISION)
            dz_ptrs += BLOCK_K * stride_dzm
            x_ptrs += BLOCK_K * stride_xm
        parts = parts_of(product, BLOCK_M, BLOCK_N, PARTS)
        for part in tl.static_range(PARTS):
            gradient = parts[part]
            part_column = indices(tile_n * PARTS + part, WIDTH)
            out_ptrs = matrix(out_ptr, unit, part_column, stride_on, stride_ok)
            inside_part = inside_units & (part_column < depth)[None, :]
            rate = 1.0
            if LOCKED:
                rate = rate_of(
                    _free(free_rows_ptr, unit, units, row_repeat, BLOCK_M)[:, None],
                    _free(free_columns_ptr, part_column, depth, column_repeat, WIDTH)[None, :],
                )
            if UPDATE:
                weight = tl.load(out_ptrs, mask=inside_part, other=0.0)
                gradient = _moved(weight, gradient, rate, lr_ptr, lr, sign, weight_decay, LOCKED, DECAY, MEND)
            else:
                if LOCKED:
                    gradient = tl.where(rate == 0, 0.0, rate * gradient)
                frozen = (unit < frozen_rows)[:, None] & (part_column < frozen_columns)[None, :]
                gradient = tl.where(frozen, 0.0, gradient)
            tl.store(out_ptrs, gradient.to(out_ptr.dtype.element_ty), mask=inside_part)
    else:
        if not UPDATE:
            zero_ptrs = matrix(out_ptr, unit, column, stride_on, stride_ok)
            inside = inside_units & (column < depth)[None, :]
            tl.store(zero_ptrs, tl.zeros((BLOCK_M, BLOCK_N), out_ptr.dtype.element_ty), mask=inside)


def gradient(
    dz: Tensor,
    x: Tensor,
    out: Tensor,
    frozen: tuple[int, int],
    lock: Lock | None,
    step: SGDOptions | None,
    block: MatmulBlock,
) -> None:
    """Fill `out` [N, K] with the gradient, or make `step` on it; `dz` is [M, N] and `x` [M, K], both of any strides."""
    (rows, units), depth = dz.shape, x.shape[1]
    lock = Lock() if lock is None else contiguous(lock)
    lr, lr_ptr = (0.0, None) if step is None else number_or_scalar(step.lr, out.device)
    with torch.cuda.device_of(out):
        gated_linear_gradient[programs(block, units, depth, out.device)](
            dz_ptr=dz,
            x_ptr=x,
            out_ptr=out,
            free_rows_ptr=lock.rows,
            free_columns_ptr=lock.columns,
            lr_ptr=lr_ptr,
            rows=rows,
            units=units,
            depth=depth,
            frozen_rows=frozen[0],
            frozen_columns=frozen[1],
            row_repeat=lock.row_repeat,
            column_repeat=lock.column_repeat,
            stride_dzm=dz.stride(0),
            stride_dzn=dz.stride(1),
            stride_xm=x.stride(0),
            stride_xk=x.stride(1),
            stride_on=out.stride(0),
            stride_ok=out.stride(1),
            lr=lr,
            sign=-1.0 if step is not None and step.maximize else 1.0,
            weight_decay=float(step.weight_decay) if step is not None else 0.0,
            UPDATE=step is not None,
            DECAY=step is not None and step.weight_decay != 0,
            MEND=step is not None and step.mend,
            **constants(block, x, rows),
        )
