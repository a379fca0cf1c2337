"""Locking an update that some optimizer has already made, in pure PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.lock import Lock, rate


def lock_update_(parameter: Tensor, before: Tensor, lock: Lock) -> Tensor:
    """See `hat_kernels.lock_update_`."""
    r = rate(lock, parameter)
    partly = before + r * (parameter - before)
    return parameter.copy_(torch.where(r == 0, before, torch.where(r == 1, parameter, partly)))
