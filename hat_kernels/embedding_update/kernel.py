"""The step of the gate embeddings, all gates in one launch."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from hat_kernels.tile import (
    CODE,
    DTYPE_CODES,
    GRAD,
    NUMEL,
    PARAMETER,
    STATE,
    mended,
    owner,
    typed,
)


@triton.jit
def _embedding_tile(
    row,
    index,
    lr,
    scale,
    momentum,
    keep,
    history,
    limit,
    DTYPES: tl.constexpr,
    STATEFUL: tl.constexpr,
    NESTEROV: tl.constexpr,
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


@triton.jit
def embedding_kernel(
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
    limit,
    CODES: tl.constexpr,
    STATEFUL: tl.constexpr,
    NESTEROV: tl.constexpr,
    MEND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, index = owner(rows_ptr, owners_ptr)
    moves = index >= 0
    if found_inf_ptr is not None:
        moves = tl.load(found_inf_ptr) == 0
    if moves:
        scale = sign
        if scale_ptr is not None:
            scale *= tl.load(scale_ptr)
        if lr_ptr is not None:
            lr = tl.load(lr_ptr)
        code = tl.load(row + CODE)
        for dtypes in tl.static_range(DTYPE_CODES):
            if (CODES >> dtypes) & 1 == 1:  # noqa: SIM102
                if code == dtypes:
                    _embedding_tile(
                        row, index, lr, scale, momentum, keep, history, limit, dtypes, STATEFUL, NESTEROV, MEND, BLOCK,
                    )  # fmt: skip
