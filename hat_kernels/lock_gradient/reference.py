"""Locking a gradient in pure PyTorch."""

from __future__ import annotations

from torch import Tensor

from hat_kernels.lock import Lock, scale_by_rate_


def lock_gradient_(grad: Tensor, lock: Lock) -> Tensor:
    """See `hat_kernels.lock_gradient_`."""
    return scale_by_rate_(grad, lock)
