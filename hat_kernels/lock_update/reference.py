"""Locking an update after an optimizer has made it, in pure PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.lock import Lock, rate


def lock_update_(parameter: Tensor, before: Tensor, lock: Lock) -> Tensor:
    """See `hat_kernels.lock_update_`."""
    rates = rate(lock, parameter)
    partly = before + rates * (parameter - before)
    return parameter.copy_(torch.where(rates == 0, before, torch.where(rates == 1, parameter, partly)))
