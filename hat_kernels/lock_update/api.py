"""Locking an update after an optimizer has made it."""

from __future__ import annotations

from torch import Tensor

from hat_kernels.check import check_changeable, check_tensors
from hat_kernels.dispatch import use_triton
from hat_kernels.lock import Lock, check_lock
from hat_kernels.lock_update import reference


def lock_update_(parameter: Tensor, before: Tensor, lock: Lock) -> Tensor:
    """`parameter = before + rate (parameter - before)`, in place.

    This is the lock of Serrà et al. 2018, eq. 2, on the update instead of the gradient. So it also stops the part of an
    update that does not come from the gradient: momentum, adaptive moments, weight decay. Elements of rate 0 get their
    old bits back, elements of rate 1 keep their new bits.

    Args:
        parameter: [R, C, ...] after the step, floating.
        before: the parameter before the step, of the same shape and dtype.
        lock: the free units along the first two dimensions of `parameter`.

    Returns:
        `parameter`.

    Raises:
        ValueError: shapes, dtypes or devices differ, the lock does not fit, elements of `parameter` share memory, or
            autograd records a change of `parameter`.
        TypeError: a tensor is not dense and floating, `lock` is not a `Lock`, or the free units of the lock are not
            float32.
    """
    check_tensors(parameter=parameter, before=before)
    if before.shape != parameter.shape or before.dtype != parameter.dtype:
        expected = f"{tuple(parameter.shape)} {parameter.dtype}"
        raise ValueError(f"before: expected {expected}, got {tuple(before.shape)} {before.dtype}")
    if before.device != parameter.device:
        raise ValueError(f"before: expected a tensor on {parameter.device}, got {before.device}")
    check_lock(lock, parameter)
    if lock is None:
        raise TypeError("lock: expected a Lock, got None")
    check_changeable(parameter=parameter)
    if use_triton("lock_update_", parameter, before):
        from hat_kernels.lock_update import triton

        return triton.lock_update_(parameter, before, lock)
    return reference.lock_update_(parameter, before, lock)
