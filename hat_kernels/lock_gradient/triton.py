"""Locking a gradient in one launch: a tile of rate 1 is not touched, a tile of rate 0 is written without being read."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.lock import Lock
from hat_kernels.locked_rows import OPTIONS, as_rows, locked_tile


@triton.jit
def lock_gradient_kernel(
    grad_ptr,
    row_units_ptr,
    column_units_ptr,
    row_count,
    vectors_per_row,
    stride_vectors,
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
    grad_ptrs = grad_ptr + (rows * (stride_vectors * VECTOR))[:, None] + columns[None, :]
    if highest == 0.0:
        tl.store(grad_ptrs, tl.zeros((BLOCK_M, BLOCK_N), grad_ptr.dtype.element_ty), mask=mask)
    elif lowest != 1.0:
        grad = tl.load(grad_ptrs, mask=mask).to(tl.float32)
        locked = tl.where(rate == 0.0, 0.0, grad) * rate  # a select first: 0 * inf is NaN
        tl.store(grad_ptrs, locked.to(grad_ptr.dtype.element_ty), mask=mask)


def lock_gradient_(grad: Tensor, lock: Lock) -> Tensor:
    """See `hat_kernels.lock_gradient_`."""
    _lock_gradient(grad, *lock)
    return grad


@torch.library.custom_op("hat_kernels::lock_gradient_", mutates_args=("grad",))
def _lock_gradient(
    grad: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    row_repeat: int,
    column_repeat: int,
    groups: int,
) -> None:
    if not grad.numel():
        return
    lock = Lock(rows, columns, row_repeat, column_repeat, groups)
    view = as_rows(grad, lock)
    if view is None:  # the memory is not rows of neighbouring elements: lock a contiguous copy
        grad.copy_(lock_gradient_(grad.contiguous(), lock))
        return
    with torch.cuda.device_of(grad):
        lock_gradient_kernel[(view.programs,)](
            grad_ptr=grad,
            stride_vectors=view.stride // view.vector,
            **view.arguments(),
            **OPTIONS,
        )


@_lock_gradient.register_fake
def _(
    grad: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    row_repeat: int,
    column_repeat: int,
    groups: int,
) -> None:
    return None
