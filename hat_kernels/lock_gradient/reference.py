"""Locking a gradient in pure PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.dispatch import free_to_read
from hat_kernels.lock import Lock, rate


def lock_gradient_(grad: Tensor, lock: Lock) -> Tensor:
    """See `hat_kernels.lock_gradient_`."""
    rates = rate(lock, grad).to(grad.dtype)
    grad.mul_(rates)
    # 0 * inf is NaN, but must be 0. NaN is rare: on a CPU the sum tells whether a second pass is needed at all.
    if not free_to_read(grad) or not torch.isfinite(grad.sum()):
        grad.masked_fill_(rates == 0, 0)
    return grad
