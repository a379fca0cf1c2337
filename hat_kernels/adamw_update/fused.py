"""Adam and AdamW in one pass over memory, for parameters without a lock."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.adamw_update.options import AdamWOptions
from hat_kernels.compiling import as_rows, fused


@fused
def _loop(
    weight: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    largest: Tensor | None,
    scale: Tensor,
    step_size: Tensor,
    correction: Tensor,
    decay: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    coupled_decay: float,
) -> None:
    g = grad * scale
    if coupled_decay:
        g = g + coupled_decay * weight
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    if largest is not None:
        largest.copy_(torch.maximum(largest, v))
        v = largest
    weight.mul_(1 - decay).sub_(step_size * m / (v.sqrt() * correction + eps))


def update_(tensors: list[Tensor], step: float, options: AdamWOptions) -> None:
    """`hat_kernels.adamw_update_` of one parameter without a lock.

    Args:
        tensors: parameter, gradient, first and second moment, and the largest second moment with amsgrad.
        step: the number of this step; the first is 1.
    """
    weight, grad, m, v, *largest = as_rows(tensors)
    lr, (beta1, beta2), eps, weight_decay, decoupled, _, maximize, grad_scale, _, _ = options
    scale = torch.ones(()) if grad_scale is None else grad_scale.to(torch.float32)
    numbers = [float(lr) / (1 - beta1**step), (1 - beta2**step) ** -0.5, float(lr) * weight_decay if decoupled else 0.0]
    step_size, correction, decay = torch.tensor(numbers, dtype=torch.float32)
    _loop(
        weight,
        grad,
        m,
        v,
        largest[0] if largest else None,
        -scale if maximize else scale,
        step_size,
        correction,
        decay,
        beta1,
        beta2,
        eps,
        0.0 if decoupled else weight_decay,
    )
