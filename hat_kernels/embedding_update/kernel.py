"""The step of the gate embeddings, all gates in one launch.

Every program sums the free units of all gates for itself: they are a few thousand numbers, and a second launch, or a
sum kept from the last task, would cost more.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from hat_kernels.device import COSH_LIMIT, cosh, precise_sigmoid
from hat_kernels.tile import (
    CODE,
    DTYPE_CODES,
    EXTRA,
    FIELDS,
    GRAD,
    NUMEL,
    PARAMETER,
    STATE,
    mended,
    owner,
    typed,
)

SMALLEST = tl.constexpr(2.0**-126)  # of a normal float32: a quotient by less means nothing


@triton.jit
def _sum_free(rows_ptr, count, BLOCK: tl.constexpr):
    """The free units of all gates."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    gate = 0
    while gate < count:  # a range of a tensor is more than the interpreter of Triton 3.6 can do
        row = rows_ptr + gate * FIELDS
        free_ptr = typed(tl.load(row + EXTRA), 0)
        units = tl.load(row + NUMEL).to(tl.int32)
        start = 0
        while start < units:
            total += tl.load(free_ptr + start + lane, mask=start + lane < units, other=0.0)
            start += BLOCK
        gate += 1
    return tl.sum(total, 0)


@triton.jit
def _compensated(q, pull, e, scale, s_max, COMPENSATION: tl.constexpr):
    """`q` is plain, `da s a (1 - a)`, and `pull` still a gradient in the gate."""
    a = precise_sigmoid(scale * e)
    derivative = (1.0 - a) * a * scale
    if COMPENSATION == 2:
        unit = precise_sigmoid(e)
        tiny = derivative < SMALLEST
        q = (tl.where(tiny, 0.0, tl.div_rn(q, tl.where(tiny, 1.0, derivative))) + pull) * (s_max * unit * (1.0 - unit))
    else:
        q += pull * derivative
    if COMPENSATION == 1:
        clamped = tl.minimum(tl.maximum(scale * e, -COSH_LIMIT), COSH_LIMIT)
        q *= tl.div_rn(tl.div_rn(s_max, scale) * (cosh(clamped) + 1.0), cosh(e) + 1.0)
    return q


@triton.jit
def _embedding_tile(
    row,
    index,
    total,
    gate_scale,
    lr,
    scale,
    sign,
    momentum,
    keep,
    history,
    limit,
    s_max,
    penalty,
    DTYPES: tl.constexpr,
    STATEFUL: tl.constexpr,
    NESTEROV: tl.constexpr,
    COMPENSATION: tl.constexpr,
    PENALTY: tl.constexpr,
    MEND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    offsets = index * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < tl.load(row + NUMEL)
    embedding_ptr = typed(tl.load(row + PARAMETER), DTYPES // 9) + offsets
    grad_ptr = typed(tl.load(row + GRAD), DTYPES // 3 % 3) + offsets
    e = tl.load(embedding_ptr, mask=mask, other=0.0).to(tl.float32)
    step = tl.load(grad_ptr, mask=mask, other=0.0).to(tl.float32)
    if MEND:
        step = mended(step)
    step *= scale
    if PENALTY or COMPENSATION != 0:
        pull = tl.zeros([BLOCK], tl.float32)
        if PENALTY:
            free = tl.load(typed(tl.load(row + EXTRA), 0) + offsets, mask=mask, other=0.0)
            pull = tl.where(total > 0, penalty * free / tl.where(total > 0, total, 1.0), 0.0)
        step = _compensated(step, pull, e, gate_scale, s_max, COMPENSATION)
    step *= sign
    if STATEFUL:
        state_ptr = typed(tl.load(row + STATE), DTYPES % 3) + offsets
        old = tl.load(state_ptr, mask=mask, other=0.0).to(tl.float32)
        velocity = tl.where(history != 0, momentum * old, 0.0) + keep * step
        tl.store(state_ptr, velocity.to(state_ptr.dtype.element_ty), mask=mask)
        if NESTEROV:
            step += momentum * velocity
        else:
            step = velocity
    e -= lr * step
    # Two selects, which let a NaN through as clamp does.
    e = tl.where(e > limit, limit, e)
    e = tl.where(e < -limit, -limit, e)
    if MEND:
        e = mended(e)
    tl.store(embedding_ptr, e.to(embedding_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["count"])
def embedding_kernel(
    rows_ptr,
    owners_ptr,
    gate_scale_ptr,
    lr_ptr,
    scale_ptr,
    found_inf_ptr,
    lr,
    sign,
    momentum,
    keep,
    history,
    limit,
    s_max,
    penalty,
    count,
    CODES: tl.constexpr,
    STATEFUL: tl.constexpr,
    NESTEROV: tl.constexpr,
    COMPENSATION: tl.constexpr,
    PENALTY: tl.constexpr,
    MEND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, index = owner(rows_ptr, owners_ptr)
    moves = index >= 0
    if found_inf_ptr is not None:
        moves = tl.load(found_inf_ptr) == 0
    if moves:
        total = 0.0
        if PENALTY:
            total = _sum_free(rows_ptr, count, BLOCK)
        gate_scale = 1.0
        if gate_scale_ptr is not None:
            gate_scale = tl.load(gate_scale_ptr)
        scale = 1.0
        if scale_ptr is not None:
            scale = tl.load(scale_ptr)
        if lr_ptr is not None:
            lr = tl.load(lr_ptr)
        code = tl.load(row + CODE)
        for dtypes in tl.static_range(DTYPE_CODES):
            if (CODES >> dtypes) & 1 == 1:  # noqa: SIM102
                if code == dtypes:
                    _embedding_tile(
                        row, index, total, gate_scale, lr, scale, sign, momentum, keep, history, limit, s_max, penalty,
                        dtypes, STATEFUL, NESTEROV, COMPENSATION, PENALTY, MEND, BLOCK,
                    )  # fmt: skip
