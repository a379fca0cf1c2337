"""Locking an update in one launch: a tile of rate 1 is not touched, a tile of rate 0 is copied back."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.lock import Lock
from hat_kernels.locked_rows import OPTIONS, as_rows, locked_tile


@triton.jit
def lock_update_kernel(
    parameter_ptr,
    before_ptr,
    row_units_ptr,
    column_units_ptr,
    row_count,
    vectors_per_row,
    stride_vectors,
    stride_before_vectors,
    row_span,
    column_span,
    column_count,
    group_rows,
    CHANNELS_LAST: tl.constexpr,
    GROUPED: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    rows, columns, mask, rate, lowest, highest = locked_tile(
        row_units_ptr, column_units_ptr, row_count, vectors_per_row, row_span, column_span, column_count, group_rows,
        CHANNELS_LAST, GROUPED, VECTOR, BLOCK_M, BLOCK_N,
    )  # fmt: skip
    parameter_ptrs = parameter_ptr + (rows * (stride_vectors * VECTOR))[:, None] + columns[None, :]
    before_ptrs = before_ptr + (rows * (stride_before_vectors * VECTOR))[:, None] + columns[None, :]
    if highest == 0.0:
        tl.store(parameter_ptrs, tl.load(before_ptrs, mask=mask), mask=mask)
    elif lowest != 1.0:
        after = tl.load(parameter_ptrs, mask=mask)
        before = tl.load(before_ptrs, mask=mask)
        start = before.to(tl.float32)
        partly = (start + rate * (after.to(tl.float32) - start)).to(parameter_ptr.dtype.element_ty)
        # Selects, not the formula: with rate 0 or 1 an element keeps its bits, even if the other value is inf or NaN.
        tl.store(parameter_ptrs, tl.where(rate == 0.0, before, tl.where(rate == 1.0, after, partly)), mask=mask)


def lock_update_(parameter: Tensor, before: Tensor, lock: Lock) -> Tensor:
    """See `hat_kernels.lock_update_`."""
    _lock_update(parameter, before, *lock)
    return parameter


@torch.library.custom_op("hat_kernels::lock_update_", mutates_args=("parameter",))
def _lock_update(
    parameter: Tensor,
    before: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    row_repeat: int,
    column_repeat: int,
    groups: int,
) -> None:
    if not parameter.numel():
        return
    lock = Lock(rows, columns, row_repeat, column_repeat, groups)
    view = as_rows(parameter, lock)
    if view is None:  # the memory is not rows of neighbouring elements: lock a contiguous copy
        parameter.copy_(lock_update_(parameter.contiguous(), before, lock))
        return
    stride_before = view.stride
    if before.stride() != parameter.stride():
        # A copy in the memory order of the parameter, without gaps between the rows.
        before = torch.empty_like(parameter).copy_(before)
        stride_before = view.length
    with torch.cuda.device_of(parameter):
        lock_update_kernel[(view.programs,)](
            parameter_ptr=parameter,
            before_ptr=before,
            stride_vectors=view.stride // view.vector,
            stride_before_vectors=stride_before // view.vector,
            **view.arguments(),
            **OPTIONS,
        )


@_lock_update.register_fake
def _(
    parameter: Tensor,
    before: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    row_repeat: int,
    column_repeat: int,
    groups: int,
) -> None:
    return None
