"""Stochastic gradient descent (SGD) that cannot move a locked weight."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hat_kernels.check import check_changeable, check_list, check_one_device, check_parallel, check_states
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
    """One SGD step on many parameters, in place. The lock acts last, after momentum and weight decay.

    - `g = grad_scale * grad + weight_decay * W`
    - `v = momentum * v + (1 - dampening) * g`, but `v = g` in the first step
    - `d = g + momentum * v` with Nesterov momentum, `d = v` with plain momentum, `d = g` without momentum
    - `W -= lr * rate * d`

    This is the step of `torch.optim.SGD` under the lock of Serrà et al. 2018, eq. 2. A weight of rate 0 keeps its bits,
    and so does its momentum, whatever the gradient holds. Arithmetic is in float32 or wider.

    Args:
        parameters: of any shapes and floating dtypes, on one device.
        grads: one for each parameter, of its shape. Not changed.
        momentum_buffers: `v`, one for each parameter, of its dtype or float32; empty if `momentum` is 0.
        locks: one for each parameter; None: nothing of the parameter is locked.
        lr: learning rate >= 0, a number or a 0-d tensor.
        momentum: >= 0.
        dampening: takes this share of the gradient out of the momentum.
        nesterov: use Nesterov momentum.
        weight_decay: >= 0, added to the gradient as `weight_decay * W`.
        maximize: ascend instead of descend.
        grad_scale: 0-d factor of every gradient (clipping, one over a loss scale), or None.
        is_first_step: the momentum buffers hold nothing yet, and are not read.
        found_inf: 0-d float32; if it is not 0, no step is made. None: the step is made.
        mend: elements of a gradient that are not finite count as 0. In a parameter with a lock, results that are not
            finite are written as 0, and the others are clamped to the range of float16. The reason: a finished task
            multiplies the free weights by an input of exactly 0, but 0 * inf is NaN.

    Raises:
        ValueError: the lists differ in length, shapes or devices, a lock does not fit, an option is out of range, or
            autograd records a change of a parameter.
        TypeError: something is not a dense floating tensor, or a momentum buffer is neither of the parameter's dtype
            nor float32.
    """
    options = SGDOptions(
        lr, momentum, dampening, nesterov, weight_decay, maximize, grad_scale, is_first_step, found_inf, mend
    )
    check_list("parameters", parameters)
    options.check(check_one_device(parameters))
    check_changeable(parameters=parameters)
    check_parallel("grads", grads, parameters)
    if momentum:
        check_states("momentum_buffers", momentum_buffers, parameters)
    check_locks(locks, parameters)
    update = reference.sgd_update_
    if use_triton("sgd_update_", *parameters, *grads):
        from hat_kernels.sgd_update import triton as kernels  # a plain import, which torch.compile can trace

        update = kernels.sgd_update_
    update(parameters, grads, momentum_buffers if momentum else [], locks, options)
