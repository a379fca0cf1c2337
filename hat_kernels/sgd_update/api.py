"""Stochastic gradient descent that cannot move a locked weight."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hat_kernels.check import check_one_device, check_parallel, check_scalar, check_states
from hat_kernels.dispatch import use_triton
from hat_kernels.lock import Lock, check_locks
from hat_kernels.sgd_update import reference
from hat_kernels.sgd_update.options import SGDOptions


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
    found_inf: Tensor | None = None,
    mend: bool = False,
) -> None:
    """One SGD step on many parameters, in place, locked after momentum and weight decay.

    With `g = grad_scale * grad + weight_decay * W`, `v = momentum * v + (1 - dampening) * g` (`v = g` at first) and
    `d` = `g + momentum * v` (Nesterov), `v` (momentum) or `g`: `W -= lr * rate * d`. The step of `torch.optim.SGD`
    under the lock of Serrà et al. 2018, eq. 2. A weight of rate 0 keeps its bits, and its momentum too, whatever the
    gradient holds. Arithmetic is in float32 at least.

    Args:
        parameters: any floating shapes and dtypes, one device.
        grads: one a parameter, same shapes. Not changed.
        momentum_buffers: one a parameter if `momentum` is not 0, else empty; of the parameter's dtype or float32.
        locks: one a parameter; None where nothing is locked.
        lr: learning rate >= 0, a number or a 0-d tensor.
        momentum: >= 0.
        dampening: of the momentum.
        nesterov: use Nesterov momentum.
        weight_decay: >= 0, added to the gradient as `weight_decay * W`.
        maximize: ascend instead of descend.
        grad_scale: 0-d factor of every gradient (clipping, one over a loss scale), or None.
        is_first_step: the momentum buffers hold nothing yet.
        found_inf: 0-d float32; if it is not 0, nothing happens. None: the step is taken.
        mend: a gradient that is not finite counts as 0, and in a parameter that has a lock a result that is not finite
            is written as 0, a larger one than float16 holds as its largest: finished tasks meet it with an input of
            exactly 0, but 0 * inf is NaN.

    Raises:
        ValueError: the lists' lengths differ, or shapes or devices, or a lock does not fit.
        TypeError: a momentum buffer is neither of the parameter's dtype nor float32.
    """
    check_parallel("grads", grads, parameters)
    if momentum:
        check_states("momentum_buffers", momentum_buffers, parameters)
    check_locks(locks, parameters)
    check_one_device(parameters)
    check_scalar("grad_scale", grad_scale)
    check_scalar("found_inf", found_inf)
    update = reference.sgd_update_
    if use_triton("sgd_update_", *parameters, *grads):
        from hat_kernels.sgd_update import triton as kernels  # torch.compile traces this, but not importlib

        update = kernels.sgd_update_
    options = SGDOptions(
        lr, momentum, dampening, nesterov, weight_decay, maximize, grad_scale, is_first_step, found_inf, mend
    )
    update(parameters, grads, momentum_buffers if momentum else [], locks, options)
