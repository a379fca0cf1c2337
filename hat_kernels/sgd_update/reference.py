"""Locked SGD in pure PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hat_kernels.lock import Lock
from hat_kernels.locked_add import locked_add_


def sgd_update_(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    locks: Sequence[Lock | None],
    *,
    lr: float | Tensor,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
    maximize: bool,
    grad_scale: Tensor | None,
    is_first_step: bool,
) -> None:
    """See `hat_kernels.sgd_update_`."""
    for index, (parameter, grad, lock) in enumerate(zip(parameters, grads, locks, strict=True)):
        step = grad if grad_scale is None else grad * grad_scale
        step = -step if maximize else step
        if weight_decay:
            step = step.add(parameter, alpha=weight_decay)
        if momentum:
            buffer = momentum_buffers[index]
            if is_first_step:
                buffer.copy_(step)
            else:
                buffer.mul_(momentum).add_(step, alpha=1 - dampening)
            step = step.add(buffer, alpha=momentum) if nesterov else buffer
        if lock is not None:
            locked_add_(parameter, step, lock, -lr)
        elif isinstance(lr, Tensor):
            parameter.add_(step * -lr)
        else:
            parameter.add_(step, alpha=-lr)
