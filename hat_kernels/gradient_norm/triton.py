"""The global norm of locked gradients, in two launches.

Programs run in any order, and a sum of floating-point numbers depends on the order. So the programs do not add to one
number. In the first launch each program stores the sum of squares of its own tiles, its partial sum. In the second
launch one program adds the partial sums, always in the same order.

An example: the gradients of a weight [1000, 784] and a bias [1000] make 1001 programs (see `hat_kernels/table.py`). The
first launch stores 1001 partial sums. The second has one program of 4096 lanes: lane i takes partial sum i, the lanes
from 1001 on take 0, and the program adds the lanes.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.lock import Lock
from hat_kernels.operands import arrange, flatten, scalar, unflatten
from hat_kernels.table import BLOCK_M, BLOCK_N, table
from hat_kernels.tile import (
    CODE,
    DTYPE_CODES,
    FAST,
    GRAD,
    elements,
    mended,
    owner,
    pitched,
    place,
    tensor_of,
    tile_rates,
)

NUM_WARPS = 4
SUM_BLOCK, SUM_WARPS = 4096, 16
TINY = 1e-6  # as in torch.nn.utils.clip_grad_norm_


@triton.jit
def _squares(
    row,
    row0,
    column0,
    rate,
    DIGIT: tl.constexpr,
    ALIGNED: tl.constexpr,
    MEND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """[BLOCK_M] the sum of the squares of each row of a tile."""
    _, _, mask = elements(row, row0, column0, ALIGNED, BLOCK_M, BLOCK_N)
    start, offsets = pitched(row, row0, column0, ALIGNED, BLOCK_M, BLOCK_N)
    grad_ptr = tensor_of(row, GRAD, DIGIT, start, offsets, ALIGNED)
    g = tl.load(grad_ptr, mask=mask, other=0.0).to(tl.float32)
    if MEND:
        g = mended(g)
    g = tl.where(rate == 0, 0.0, rate * g)  # a select: 0 * inf is NaN
    return tl.sum(g * g, 1)


@triton.jit
def _partial_kernel(
    rows_ptr,
    owners_ptr,
    partial_ptr,
    CODES: tl.constexpr,
    MEND: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Store the sum of squares of the tiles of each program."""
    row, index = owner(rows_ptr, owners_ptr)
    form, row0, column0, columns, moves = place(row, index, STEPS, BLOCK_M, BLOCK_N)
    total = tl.zeros([BLOCK_M], tl.float32)
    if moves:
        code = tl.load(row + CODE)
        fast = tl.load(row + FAST)
        for step in range(STEPS):
            tile_row = row0 + step * BLOCK_M
            rate, tile_moves = tile_rates(row, form, tile_row, columns, BLOCK_M, BLOCK_N)
            if tile_moves:
                for dtypes in tl.static_range(DTYPE_CODES):
                    if (CODES >> dtypes) & 1 == 1:  # noqa: SIM102
                        if code == dtypes:
                            if fast != 0:
                                total += _squares(
                                    row, tile_row, column0, rate, dtypes % 3, True, MEND, BLOCK_M, BLOCK_N
                                )
                            else:
                                total += _squares(
                                    row, tile_row, column0, rate, dtypes % 3, False, MEND, BLOCK_M, BLOCK_N
                                )
    tl.store(partial_ptr + tl.program_id(0), tl.sum(total, 0))


@triton.jit(do_not_specialize=["count"])
def _norm_kernel(
    partial_ptr,
    scale_ptr,
    result_ptr,
    max_norm,
    tiny,
    count,
    CLIP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the `count` partial sums; the result is their root, or with `CLIP` the factor that clips."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    start = 0
    while start < count:  # not range(): the interpreter of Triton 3.6 takes no tensor there
        total += tl.load(partial_ptr + start + lane, mask=start + lane < count, other=0.0)
        start += BLOCK
    result = tl.sqrt_rn(tl.sum(total, 0))
    if CLIP:
        scale = 1.0
        if scale_ptr is not None:
            scale = tl.load(scale_ptr)
        factor = max_norm / (scale * result + tiny)
        # In this form a norm of NaN gives a factor of NaN, as with clamp. tl.minimum would give 1.
        result = scale * tl.where(factor > 1.0, 1.0, factor)
    tl.store(result_ptr, result)


def gradient_norm(grads: Sequence[Tensor], locks: Sequence[Lock | None], mend: bool) -> Tensor:
    """See `hat_kernels.gradient_norm`."""
    return _reduce(grads, locks, mend, None, None)


def clip_factor(
    grads: Sequence[Tensor], locks: Sequence[Lock | None], max_norm: float, grad_scale: Tensor | None, mend: bool
) -> Tensor:
    """See `hat_kernels.clip_factor`."""
    return _reduce(grads, locks, mend, max_norm, grad_scale)


def _reduce(
    grads: Sequence[Tensor],
    locks: Sequence[Lock | None],
    mend: bool,
    max_norm: float | None,
    grad_scale: Tensor | None,
) -> Tensor:
    if torch.compiler.is_compiling():
        return _gradient_norm_op(list(grads), *flatten(locks), grad_scale, max_norm, mend)
    device = grads[0].device
    operands, _ = arrange(grads, grads, (), locks)
    result = torch.empty((), dtype=torch.float32, device=device)
    with torch.cuda.device_of(grads[0]):
        count = 0
        partial = result
        if operands:
            pointer_table = table(operands)
            count = pointer_table.programs
            partial = torch.empty(count, dtype=torch.float32, device=device)
            _partial_kernel[(count,)](
                pointer_table.rows,
                pointer_table.owners,
                partial,
                CODES=pointer_table.codes,
                MEND=mend,
                STEPS=pointer_table.steps,
                BLOCK_M=BLOCK_M,
                BLOCK_N=BLOCK_N,
                num_warps=NUM_WARPS,
                enable_fp_fusion=True,
            )
        _norm_kernel[(1,)](
            partial,
            scalar(grad_scale, device),
            result,
            0.0 if max_norm is None else float(max_norm),
            TINY,
            count,
            CLIP=max_norm is not None,
            BLOCK=SUM_BLOCK,
            num_warps=SUM_WARPS,
            enable_fp_fusion=True,
        )
    return result


@torch.library.custom_op("hat_kernels::gradient_norm", mutates_args=())
def _gradient_norm_op(
    grads: Sequence[Tensor],
    rows: Sequence[Tensor | None],
    columns: Sequence[Tensor | None],
    lock_numbers: Sequence[int],
    grad_scale: Tensor | None,
    max_norm: float | None,
    mend: bool,
) -> Tensor:
    return _reduce(grads, unflatten(rows, columns, lock_numbers), mend, max_norm, grad_scale)


@_gradient_norm_op.register_fake
def _(grads: Sequence[Tensor], *_: Any) -> Tensor:
    return grads[0].new_empty((), dtype=torch.float32)
