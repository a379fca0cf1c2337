"""Adam and AdamW that cannot move a locked weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat_kernels.adamw_update import reference
from hat_kernels.adamw_update.options import AdamWOptions
from hat_kernels.check import check_one_device, check_parallel, check_scalar, check_states
from hat_kernels.dispatch import use_triton
from hat_kernels.lock import Lock, check_locks


def adamw_update_(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    locks: Sequence[Lock | None],
    *,
    lr: float | Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    decoupled: bool = True,
    amsgrad: bool = False,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    mend: bool = False,
) -> None:
    """One step of Adam or AdamW on many parameters, in place, locked after moments and weight decay.

    With `t` the step's number from 1 and `g = grad_scale * grad` (`+ weight_decay * W` if not `decoupled`):
    `m += (1 - beta1) (g - m)`, `v = beta2 v + (1 - beta2) g^2`, `u` = `v` or the largest so far (`amsgrad`),
    `d = lr / (1 - beta1^t) * m / (sqrt(u / (1 - beta2^t)) + eps)` (`+ lr * weight_decay * W` if `decoupled`), and
    `W -= rate * d`. The step of `torch.optim.AdamW` (Loshchilov & Hutter, 2019) under the lock of Serrà et al. 2018,
    eq. 2. A weight of rate 0 keeps its bits, and its moments too, whatever the gradient holds. Arithmetic is in float32
    at least.

    Args:
        parameters: any floating shapes and dtypes, one device.
        grads: one a parameter, same shapes. Not changed.
        exp_avgs, exp_avg_sqs: `m` and `v`, one a parameter; of the parameter's dtype or float32, 0 at first.
        max_exp_avg_sqs: `u`, one a parameter if `amsgrad`, else empty.
        steps: one a parameter, float32 of one element on its device, the steps taken so far; several parameters may
            share one. Counted up here: nothing waits for the device, so that a CUDA graph can hold the step.
        locks: one a parameter; None where nothing is locked.
        lr: learning rate >= 0, a number or a 0-d tensor.
        betas: in [0, 1).
        eps: >= 0.
        weight_decay: >= 0.
        decoupled: decay the weight (AdamW) rather than add to the gradient (Adam).
        amsgrad: divide by the largest second moment so far.
        maximize, grad_scale, mend: as in `hat_kernels.sgd_update_`.
        found_inf: 0-d float32; if it is not 0, nothing happens, and `steps` stay. None: the step is taken.

    Raises:
        ValueError: the lists' lengths differ, or shapes or devices, or a lock does not fit, or a beta is not in [0, 1).
        TypeError: a state is neither of the parameter's dtype nor float32, or of another dtype than the first moment;
            or a step is not float32.
    """
    check_parallel("grads", grads, parameters)
    states = {"exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    if amsgrad:
        states["max_exp_avg_sqs"] = max_exp_avg_sqs
    for name, state in states.items():
        check_states(name, state, parameters)
        for index, (one, first) in enumerate(zip(state, exp_avgs, strict=True)):
            if one.dtype != first.dtype:
                raise TypeError(f"{name}[{index}]: expected {first.dtype}, got {one.dtype}")
    if len(steps) != len(parameters):
        raise ValueError(f"steps: expected {len(parameters)}, one a parameter, got {len(steps)}")
    for index, (step, parameter) in enumerate(zip(steps, parameters, strict=True)):
        check_scalar(f"steps[{index}]", step)
        if step.dtype != torch.float32:
            raise TypeError(f"steps[{index}]: expected torch.float32, got {step.dtype}")
        if step.device != parameter.device:
            raise ValueError(f"steps[{index}]: expected a tensor on {parameter.device}, got {step.device}")
    for beta in betas:
        if not 0 <= beta < 1:
            raise ValueError(f"betas: expected two in [0, 1), got {betas}")
    check_locks(locks, parameters)
    check_one_device(parameters)
    check_scalar("grad_scale", grad_scale)
    check_scalar("found_inf", found_inf)
    update = reference.adamw_update_
    if use_triton("adamw_update_", *parameters, *grads):
        from hat_kernels.adamw_update import triton as kernels  # torch.compile traces this, but not importlib

        update = kernels.adamw_update_
    options = AdamWOptions(lr, betas, eps, weight_decay, decoupled, amsgrad, maximize, grad_scale, found_inf, mend)
    largest = max_exp_avg_sqs if amsgrad else []
    update(parameters, grads, exp_avgs, exp_avg_sqs, largest, steps, locks, options)
