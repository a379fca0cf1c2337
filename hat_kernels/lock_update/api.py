"""Locking an update that some optimizer has already made."""

from __future__ import annotations

from torch import Tensor

from hat_kernels.dispatch import use_triton
from hat_kernels.lock import Lock, check_lock, check_own_memory
from hat_kernels.lock_update import reference


def lock_update_(parameter: Tensor, before: Tensor, lock: Lock) -> Tensor:
    """`parameter = before + rate (parameter - before)`, in place: whatever moved the parameter, locked.

    The lock of Serrà et al. 2018, eq. 2, on the update instead of the gradient, so that momentum, adaptive moments and
    weight decay cannot get round it. Elements of rate 0 get their old bits back, elements of rate 1 keep the new.

    Args:
        parameter: [R, C, ...] after the step, floating.
        before: the same shape and dtype, its value before the step.
        lock: the free units along its first two dimensions.

    Returns:
        `parameter`.

    Raises:
        ValueError: shapes, dtypes or devices differ, the lock does not fit, or elements of `parameter` share memory.
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
