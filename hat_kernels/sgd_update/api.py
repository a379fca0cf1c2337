"""Stochastic gradient descent that cannot move a locked weight."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hat_kernels.dispatch import require_reference
from hat_kernels.lock import Lock, check_locks
from hat_kernels.sgd_update import reference


def sgd_update_(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    locks: Sequence[Lock | None],
    *,
    lr: float | Tensor,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    is_first_step: bool = False,
) -> None:
    """One SGD step on many parameters, in place, locked after momentum and weight decay.

    With `g = grad_scale * grad + weight_decay * W`, `v = momentum * v + (1 - dampening) * g` (`v = g` at first) and
    `d` = `g + momentum * v` (Nesterov), `v` (momentum) or `g`: `W -= lr * rate * d`. The step of `torch.optim.SGD`
    under the lock of Serrà et al. 2018, eq. 2. A weight of rate 0 keeps its bits, whatever the gradient holds.

    Args:
        parameters: any floating shapes and dtypes.
        grads: one a parameter, same shapes. Not changed.
        momentum_buffers: one a parameter if `momentum` is not 0, else empty.
        locks: one a parameter; None where nothing is locked.
        lr: learning rate >= 0, a number or a 0-d tensor.
        momentum: >= 0.
        dampening: of the momentum.
        nesterov: use Nesterov momentum.
        weight_decay: >= 0, added to the gradient as `weight_decay * W`.
        maximize: ascend instead of descend.
        grad_scale: 0-d factor of every gradient (clipping, loss scaling), or None.
        is_first_step: the momentum buffers hold nothing yet.

    Raises:
        ValueError: the lists' lengths differ, or shapes, or a lock does not fit.
    """
    if len(grads) != len(parameters):
        raise ValueError(f"grads: expected {len(parameters)}, one a parameter, got {len(grads)}")
    if momentum and len(momentum_buffers) != len(parameters):
        raise ValueError(f"momentum_buffers: expected {len(parameters)}, one a parameter, got {len(momentum_buffers)}")
    for index, (parameter, grad) in enumerate(zip(parameters, grads, strict=True)):
        if grad.shape != parameter.shape:
            raise ValueError(f"grads[{index}]: expected {tuple(parameter.shape)}, got {tuple(grad.shape)}")
    for index, (parameter, buffer) in enumerate(zip(parameters, momentum_buffers, strict=False)):
        if buffer.shape != parameter.shape:
            got = f"expected {tuple(parameter.shape)}, got {tuple(buffer.shape)}"
            raise ValueError(f"momentum_buffers[{index}]: {got}")
    check_locks(locks, parameters)
    require_reference("sgd_update_")
    reference.sgd_update_(
        parameters,
        grads,
        momentum_buffers,
        locks,
        lr=lr,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        weight_decay=weight_decay,
        maximize=maximize,
        grad_scale=grad_scale,
        is_first_step=is_first_step,
    )
