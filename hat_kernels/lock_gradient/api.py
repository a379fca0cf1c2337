"""Locking the gradient of one parameter."""

from __future__ import annotations

from torch import Tensor

from hat_kernels.check import check_changeable, check_tensors
from hat_kernels.dispatch import use_triton
from hat_kernels.lock import Lock, check_lock
from hat_kernels.lock_gradient import reference


def lock_gradient_(grad: Tensor, lock: Lock) -> Tensor:
    """`grad *= rate`, in place: Serrà et al. 2018, eq. 2.

    An element of rate 0 becomes 0, even if it was inf or NaN.

    Args:
        grad: [R, C, ...], 1 to 5 dimensions, floating.
        lock: the free units along the first two dimensions of `grad`.

    Returns:
        `grad`.

    Raises:
        ValueError: the lock does not fit the shape or device of `grad`, elements of `grad` share memory, or autograd
            records a change of `grad`.
        TypeError: `grad` is not a dense floating tensor, `lock` is not a `Lock`, or the free units of the lock are not
            float32.
    """
    check_tensors(grad=grad)
    check_lock(lock, grad)
    if lock is None:
        raise TypeError("lock: expected a Lock, got None")
    check_changeable(grad=grad)
    if use_triton("lock_gradient_", grad):
        from hat_kernels.lock_gradient import triton

        return triton.lock_gradient_(grad, lock)
    return reference.lock_gradient_(grad, lock)
