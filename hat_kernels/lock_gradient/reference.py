"""Locking a gradient in pure PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.dispatch import free_to_read
from hat_kernels.lock import Lock, rate


def lock_gradient_(grad: Tensor, lock: Lock) -> Tensor:
    """See `hat_kernels.lock_gradient_`."""
    r = rate(lock, grad).to(grad.dtype)
    grad.mul_(r)
    # 0 * inf is NaN. That is rare, so on a CPU one look at the sum saves the pass that mends it.
    if not free_to_read(grad) or not torch.isfinite(grad.sum()):
        grad.masked_fill_(r == 0, 0)
    return grad
