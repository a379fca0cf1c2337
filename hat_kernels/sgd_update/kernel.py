"""Locked SGD, many parameters in one launch.

A tile whose rate is 0 everywhere reads its lock and nothing else. In any other tile, an element of rate 0 is written
back with the bits that were read. If the store left it out, the compiler could not store 128 bits at once.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from hat_kernels.tile import (
    CODE,
    DTYPE_CODES,
    FAST,
    GRAD,
    PARAMETER,
    STATE,
    UNLOCKED,
    bounded,
    elements,
    mended,
    owner,
    pitched,
    place,
    tensor_of,
    tile_rates,
)


@triton.jit
def _sgd_tile(
    row,
    form,
    row0,
    column0,
    rate,
    lr_ptr,
    lr,
    scale,
    momentum,
    keep,
    history,
    weight_decay,
    limit,
    DTYPES: tl.constexpr,
    ALIGNED: tl.constexpr,
    STATEFUL: tl.constexpr,
    NESTEROV: tl.constexpr,
    DECAY: tl.constexpr,
    CLAMP: tl.constexpr,
    MEND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Update one tile.

    `keep` is the share of the gradient in the new velocity, 1 - dampening. `history` is 0 if the momentum buffer holds
    nothing yet, else 1. `DTYPES` is the dtype code of the row. With CLAMP the result is clamped to ±`limit`.
    """
    state_start, state_offsets, mask = elements(row, row0, column0, ALIGNED, BLOCK_M, BLOCK_N)
    start, offsets = pitched(row, row0, column0, ALIGNED, BLOCK_M, BLOCK_N)
    parameter_ptr = tensor_of(row, PARAMETER, DTYPES // 9, start, offsets, ALIGNED)
    grad_ptr = tensor_of(row, GRAD, DTYPES // 3 % 3, start, offsets, ALIGNED)
    before = tl.load(parameter_ptr, mask=mask, other=0.0)
    step = tl.load(grad_ptr, mask=mask, other=0.0).to(tl.float32)
    if MEND:
        step = mended(step)
    step *= scale
    weight = before.to(tl.float32)
    if DECAY:
        step += weight_decay * weight
    if STATEFUL:
        state_ptr = tensor_of(row, STATE, DTYPES % 3, state_start, state_offsets, ALIGNED)
        old_velocity = tl.load(state_ptr, mask=mask, other=0.0)
        # A select instead of a product: a buffer without history may hold NaN.
        velocity = tl.where(history != 0, momentum * old_velocity.to(tl.float32), 0.0) + keep * step
        if NESTEROV:
            step += momentum * velocity
        else:
            step = velocity
        tl.store(state_ptr, tl.where(rate == 0, old_velocity, velocity.to(old_velocity.dtype)), mask=mask)
    if lr_ptr is not None:  # loaded late: a register that holds lr from the beginning would spill
        lr = tl.load(lr_ptr)
    weight -= lr * (rate * step)
    if CLAMP:  # two selects, which let NaN through, as `torch.clamp` does
        weight = tl.where(weight > limit, limit, weight)
        weight = tl.where(weight < -limit, -limit, weight)
    after = weight.to(before.dtype)
    if MEND:
        if CLAMP:
            after = mended(after)
        elif form != UNLOCKED:  # without a lock no finished task reads the weight, so its overflow may show
            after = bounded(after)
    tl.store(parameter_ptr, tl.where(rate == 0, before, after), mask=mask)


@triton.jit
def sgd_kernel(
    rows_ptr,
    owners_ptr,
    lr_ptr,
    scale_ptr,
    found_inf_ptr,
    lr,
    sign,
    momentum,
    keep,
    history,
    weight_decay,
    limit,
    CODES: tl.constexpr,
    STATEFUL: tl.constexpr,
    NESTEROV: tl.constexpr,
    DECAY: tl.constexpr,
    CLAMP: tl.constexpr,
    MEND: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Update the tiles of one program; for each combination of dtypes in `CODES` the kernel has its own code."""
    row, index = owner(rows_ptr, owners_ptr)
    form, row0, column0, columns, moves = place(row, index, STEPS, BLOCK_M, BLOCK_N)
    if found_inf_ptr is not None:
        moves = moves & (tl.load(found_inf_ptr) == 0)
    if moves:
        scale = sign
        if scale_ptr is not None:
            scale *= tl.load(scale_ptr)
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
                                _sgd_tile(
                                    row, form, tile_row, column0, rate, lr_ptr, lr, scale, momentum, keep, history,
                                    weight_decay, limit, dtypes, True, STATEFUL, NESTEROV, DECAY, CLAMP, MEND,
                                    BLOCK_M, BLOCK_N,
                                )  # fmt: skip
                            else:
                                _sgd_tile(
                                    row, form, tile_row, column0, rate, lr_ptr, lr, scale, momentum, keep, history,
                                    weight_decay, limit, dtypes, False, STATEFUL, NESTEROV, DECAY, CLAMP, MEND,
                                    BLOCK_M, BLOCK_N,
                                )  # fmt: skip
