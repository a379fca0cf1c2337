"""Locking an update after an optimizer has made it."""

from __future__ import annotations

from torch import Tensor

from hat_kernels.dispatch import use_triton
from hat_kernels.lock import Lock, check_lock, check_own_memory
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
        ValueError: shapes, dtypes or devices differ, the lock does not fit, or elements of `parameter` share memory.
        TypeError: the free units of the lock are not float32.
    """
    if before.shape != parameter.shape or before.dtype != parameter.dtype:
        expected = f"{tuple(parameter.shape)} {parameter.dtype}"
        raise ValueError(f"before: expected {expected}, got {tuple(before.shape)} {before.dtype}")
    if before.device != parameter.device:
        raise ValueError(f"before: expected a tensor on {parameter.device}, got {before.device}")
    check_lock(lock, parameter)
    check_own_memory(parameter, "parameter")
    if use_triton("lock_update_", parameter, before):
        from hat_kernels.lock_update import triton

        return triton.lock_update_(parameter, before, lock)
    return reference.lock_update_(parameter, before, lock)
