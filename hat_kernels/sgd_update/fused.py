"""SGD in one pass over memory, for parameters without a lock."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.compiling import are_plain, as_rows, fused
from hat_kernels.lock import Lock
from hat_kernels.sgd_update.options import SGDOptions


@fused
def _loop(
    weight: Tensor,
    grad: Tensor,
    buffer: Tensor | None,
    lr: Tensor,
    scale: Tensor,
    momentum: float,
    keep: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    step = grad * scale
    if weight_decay:
        step = step + weight_decay * weight
    if buffer is not None:
        velocity = momentum * buffer + keep * step
        buffer.copy_(velocity)
        step = step + momentum * velocity if nesterov else velocity
    weight.sub_(lr * step)


def takes(parameter: Tensor, grad: Tensor, buffer: Tensor | None, lock: Lock | None, weight_decay: float) -> bool:
    """Whether `update_` can and should make the step. Without momentum and decay, the reference makes one pass, too."""
    tensors = [parameter, grad] if buffer is None else [parameter, grad, buffer]
    makes_several_passes = buffer is not None or weight_decay != 0
    return makes_several_passes and are_plain(tensors, lock)


def update_(parameter: Tensor, grad: Tensor, buffer: Tensor | None, options: SGDOptions) -> None:
    """`hat_kernels.sgd_update_` of one parameter without a lock."""
    scale = torch.ones(()) if options.grad_scale is None else options.grad_scale.to(torch.float32)
    if options.is_first_step and buffer is not None:
        buffer.zero_()
    rows = as_rows([parameter, grad, *([] if buffer is None else [buffer])])
    _loop(
        rows[0],
        rows[1],
        rows[2] if buffer is not None else None,
        torch.as_tensor(options.lr, dtype=torch.float32),
        -scale if options.maximize else scale,
        options.momentum,
        1.0 if options.is_first_step else 1.0 - options.dampening,
        options.nesterov,
        options.weight_decay,
    )
