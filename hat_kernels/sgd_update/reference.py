"""Locked SGD in pure PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hat_kernels import compiling
from hat_kernels.lock import Lock
from hat_kernels.parts import parts, widened
from hat_kernels.sgd_update import fused
from hat_kernels.sgd_update.options import SGDOptions


def sgd_update_(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    locks: Sequence[Lock | None],
    options: SGDOptions,
) -> None:
    """See `hat_kernels.sgd_update_`."""
    if options.found_inf is not None and options.found_inf.item():
        return
    lr, momentum, dampening, nesterov, weight_decay, maximize, grad_scale, is_first_step, _, mend, _ = options
    for index, (parameter, grad, lock) in enumerate(zip(parameters, grads, locks, strict=True)):
        buffer = momentum_buffers[index] if momentum else None
        if not mend and compiling.compiles() and fused.takes(parameter, grad, buffer, lock, weight_decay):
            fused.update_(parameter, grad, buffer, options)
            continue
        for part in parts(parameter, lock):
            weight = parameter[part.rows]
            step = widened(grad[part.rows], mend)
            step = step if grad_scale is None else step * grad_scale
            step = -step if maximize else step
            if weight_decay:
                step = step.add(weight, alpha=weight_decay)
            if buffer is not None:
                old_velocity, velocity = buffer[part.rows], step
                if not is_first_step:
                    velocity = part.working_copy(old_velocity).mul_(momentum).add_(step, alpha=1 - dampening)
                part.write_(old_velocity, velocity)
                step = step.add(velocity, alpha=momentum) if nesterov else velocity
            part.write_(weight, part.moved(weight, step, -lr), mend=mend, spare=True)
