"""The step of SGD on the weight of a linear layer in pure PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.lock import Lock
from hat_kernels.parts import parts, widened


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
    for part in parts(weight, lock):
        weights = weight[part.rows]
        step = widened(gradient[part.rows], mend)
        step = -step if maximize else step
        if weight_decay:
            step = step.add(weights, alpha=weight_decay)
        part.write_(weights, part.moved(weights, step, -lr), mend=mend, spare=True)
