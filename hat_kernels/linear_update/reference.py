"""The step of SGD on the weight of a linear layer in pure PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.lock import Lock
from hat_kernels.sgd_update.options import SGDOptions
from hat_kernels.sgd_update.reference import sgd_update_


def linear_update_(
    weight: Tensor,
    dz: Tensor,
    x: Tensor,
    lock: Lock | None,
    *,
    lr: float | Tensor,
    weight_decay: float,
    maximize: bool,
    mend: bool,
) -> None:
    """See `hat_kernels.linear_update_`."""
    if lock is None and not mend and weight.dtype == x.dtype and not isinstance(lr, Tensor):
        weight.addmm_(dz.t(), x, beta=1 - lr * weight_decay, alpha=lr if maximize else -lr)
        return
    wide = torch.promote_types(weight.dtype, torch.float32)
    gradient = dz.t().to(wide) @ x.to(wide)
    options = SGDOptions(lr, weight_decay=weight_decay, maximize=maximize, mend=mend)
    sgd_update_([weight], [gradient], [], [lock], options)
