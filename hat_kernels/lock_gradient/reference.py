"""Locking a gradient in pure PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.lock import Lock, rate


def lock_gradient_(grad: Tensor, lock: Lock) -> Tensor:
    """See `hat_kernels.lock_gradient_`."""
    r = rate(lock, grad)
    return grad.copy_(torch.where(r == 0, 0.0, grad * r))
