"""Locked Adam and AdamW, many parameters in one launch.

A first launch of one program adds 1 to the step counters. The second launch reads the counters and updates the
parameters. One launch could not do both: its programs run in any order, so some would read a counter before it is
increased and some after. Tiles are treated as in `hat_kernels/sgd_update/kernel.py`.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from hat_kernels.tile import (
    CODE,
    DTYPE_CODES,
    EXTRA,
    FAST,
    FIELDS,
    GRAD,
    PARAMETER,
    STATE,
    STATE_2,
    STATE_3,
    UNLOCKED,
    bounded,
    elements,
    mended,
    owner,
    pitched,
    place,
    tensor_of,
    tile_rates,
    typed,
)


@triton.jit
def _one_minus_power(log_base, exponent):
    """`1 - base^exponent` in float32, without cancellation: the plain difference 1 - 0.999 would lose 14 bits."""
    x = log_base * exponent
    # -expm1(x), for |x| < 1/2 by its series. The first term that is left out is below 2^-26 of the sum.
    series = 1 + x / 9
    series = 1 + x / 8 * series
    series = 1 + x / 7 * series
    series = 1 + x / 6 * series
    series = 1 + x / 5 * series
    series = 1 + x / 4 * series
    series = 1 + x / 3 * series
    series = 1 + x / 2 * series
    return tl.where(x > -0.5, -x * series, 1 - tl.exp(x))


@triton.jit(do_not_specialize=["count"])
def advance_kernel(rows_ptr, found_inf_ptr, count, BLOCK: tl.constexpr):
    """Add 1 to every counter. One warp reads all counters before it writes one: parameters may share a counter."""
    index = tl.arange(0, BLOCK)
    mask = index < count
    step_ptr = typed(tl.load(rows_ptr + index * FIELDS + EXTRA, mask=mask, other=0), 0)
    increment = 1.0
    if found_inf_ptr is not None:
        increment = tl.where(tl.load(found_inf_ptr) == 0, 1.0, 0.0)
    tl.store(step_ptr, tl.load(step_ptr, mask=mask, other=0.0) + increment, mask=mask)


@triton.jit
def _adamw_tile(
    row,
    form,
    row0,
    column0,
    rate,
    scale,
    step_size,
    v_correction,
    decay,
    beta2,
    new1,
    new2,
    eps,
    DTYPES: tl.constexpr,
    ALIGNED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    DECAY: tl.constexpr,
    MEND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Update one tile.

    `new1` and `new2` are 1 - beta1 and 1 - beta2, the shares of the gradient in the new moments. `step_size` is
    lr / (1 - beta1^t), and `v_correction` is (1 - beta2^t)^-1/2. `DECAY` is 0 for none, 1 for AdamW, 2 for Adam.
    """
    state_start, state_offsets, mask = elements(row, row0, column0, ALIGNED, BLOCK_M, BLOCK_N)
    start, offsets = pitched(row, row0, column0, ALIGNED, BLOCK_M, BLOCK_N)
    parameter_ptr = tensor_of(row, PARAMETER, DTYPES // 9, start, offsets, ALIGNED)
    grad_ptr = tensor_of(row, GRAD, DTYPES // 3 % 3, start, offsets, ALIGNED)
    m_ptr = tensor_of(row, STATE, DTYPES % 3, state_start, state_offsets, ALIGNED)
    v_ptr = tensor_of(row, STATE_2, DTYPES % 3, state_start, state_offsets, ALIGNED)
    before = tl.load(parameter_ptr, mask=mask, other=0.0)
    g = tl.load(grad_ptr, mask=mask, other=0.0).to(tl.float32)
    m_before = tl.load(m_ptr, mask=mask, other=0.0)
    v_before = tl.load(v_ptr, mask=mask, other=0.0)
    if MEND:
        g = mended(g)
    g *= scale
    weight = before.to(tl.float32)
    if DECAY == 2:
        g += decay * weight
    m = m_before.to(tl.float32)
    m += new1 * (g - m)
    v = beta2 * v_before.to(tl.float32) + new2 * g * g
    locked = rate == 0
    tl.store(m_ptr, tl.where(locked, m_before, m.to(m_before.dtype)), mask=mask)
    tl.store(v_ptr, tl.where(locked, v_before, v.to(v_before.dtype)), mask=mask)
    if AMSGRAD:
        u_ptr = tensor_of(row, STATE_3, DTYPES % 3, state_start, state_offsets, ALIGNED)
        u_before = tl.load(u_ptr, mask=mask, other=0.0)
        v = tl.maximum(u_before.to(tl.float32), v, propagate_nan=tl.PropagateNan.ALL)
        tl.store(u_ptr, tl.where(locked, u_before, v.to(u_before.dtype)), mask=mask)
    change = step_size * m / (tl.sqrt_rn(v) * v_correction + eps)
    if DECAY == 1:
        change += decay * weight
    after = (weight - rate * change).to(before.dtype)
    if MEND:  # noqa: SIM102
        if form != UNLOCKED:  # without a lock no finished task reads the weight, so its overflow may show
            after = bounded(after)
    tl.store(parameter_ptr, tl.where(locked, before, after), mask=mask)


@triton.jit
def adamw_kernel(
    rows_ptr,
    owners_ptr,
    lr_ptr,
    scale_ptr,
    found_inf_ptr,
    lr,
    sign,
    log_beta1,
    log_beta2,
    beta2,
    new1,
    new2,
    eps,
    weight_decay,
    CODES: tl.constexpr,
    AMSGRAD: tl.constexpr,
    DECAY: tl.constexpr,
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
        if lr_ptr is not None:
            lr = tl.load(lr_ptr)
        step_number = tl.load(typed(tl.load(row + EXTRA), 0))
        step_size = lr / _one_minus_power(log_beta1, step_number)
        v_correction = 1.0 / tl.sqrt_rn(_one_minus_power(log_beta2, step_number))
        decay = weight_decay
        if DECAY == 1:
            decay *= lr
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
                                _adamw_tile(
                                    row, form, tile_row, column0, rate, scale, step_size, v_correction, decay, beta2,
                                    new1, new2, eps, dtypes, True, AMSGRAD, DECAY, MEND, BLOCK_M, BLOCK_N,
                                )  # fmt: skip
                            else:
                                _adamw_tile(
                                    row, form, tile_row, column0, rate, scale, step_size, v_correction, decay, beta2,
                                    new1, new2, eps, dtypes, False, AMSGRAD, DECAY, MEND, BLOCK_M, BLOCK_N,
                                )  # fmt: skip
