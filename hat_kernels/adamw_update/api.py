"""Adam and AdamW that cannot move a locked weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat_kernels.adamw_update import reference
from hat_kernels.adamw_update.options import AdamWOptions
from hat_kernels.check import check_changeable, check_list, check_one_device, check_parallel, check_states, got
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
    """One step of Adam or AdamW on many parameters, in place. The lock acts last, after moments and weight decay.

    In step t = 1, 2, ...

    - `g = grad_scale * grad`, plus `weight_decay * W` if not `decoupled`
    - `m += (1 - beta1) (g - m)`
    - `v = beta2 v + (1 - beta2) g^2`
    - `u = max(u, v)` with `amsgrad`, else `u = v`
    - `d = lr / (1 - beta1^t) * m / (sqrt(u / (1 - beta2^t)) + eps)`, plus `lr * weight_decay * W` if `decoupled`
    - `W -= rate * d`

    This is the step of `torch.optim.AdamW` (Loshchilov & Hutter, 2019) under the lock of Serrà et al. 2018, eq. 2. A
    weight of rate 0 keeps its bits, and so do its moments, whatever the gradient holds. Arithmetic is in float32 or
    wider.

    Args:
        parameters: of any shapes and floating dtypes, on one device.
        grads: one for each parameter, of its shape. Not changed.
        exp_avgs, exp_avg_sqs: `m` and `v`, one for each parameter, of its dtype or float32; 0 before the first step.
        max_exp_avg_sqs: `u`, one for each parameter, as `v`; empty without `amsgrad`.
        steps: `t - 1`, the steps made so far: one for each parameter, float32 of one element, on its device. Several
            parameters may share a counter. This function adds 1 to each. The host does not wait for the device, so a
            CUDA graph can hold the step.
        locks: one for each parameter; None: nothing of the parameter is locked.
        lr: learning rate >= 0, a number or a 0-d tensor.
        betas: in [0, 1).
        eps: >= 0.
        weight_decay: >= 0.
        decoupled: weight decay acts on the weight (AdamW); else it is added to the gradient (Adam).
        amsgrad: divide by the largest second moment so far.
        maximize, grad_scale, mend: as in `hat_kernels.sgd_update_`.
        found_inf: 0-d float32; if it is not 0, no step is made and `steps` stay. None: the step is made.

    Raises:
        ValueError: the lists differ in length, shapes or devices; a lock does not fit; an option is out of range; or
            autograd records a change of a parameter.
        TypeError: something is not a dense floating tensor; a state is neither of the parameter's dtype nor float32;
            `m`, `v` and `u` of a parameter differ in dtype; or a step is not float32.
    """
    options = AdamWOptions(lr, betas, eps, weight_decay, decoupled, amsgrad, maximize, grad_scale, found_inf, mend)
    check_list("parameters", parameters)
    options.check(check_one_device(parameters))
    check_changeable(parameters=parameters)
    check_parallel("grads", grads, parameters)
    states = {"exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    if amsgrad:
        states["max_exp_avg_sqs"] = max_exp_avg_sqs
    for index, (grad, parameter) in enumerate(zip(grads, parameters, strict=True)):
        if grad.dtype == torch.float64 != parameter.dtype:
            raise TypeError(f"grads[{index}]: expected {parameter.dtype} as the parameter, got torch.float64")
    for name, state in states.items():
        check_states(name, state, parameters)
        for index, (tensor, exp_avg) in enumerate(zip(state, exp_avgs, strict=True)):
            if tensor.dtype != exp_avg.dtype:
                raise TypeError(f"{name}[{index}]: expected {exp_avg.dtype}, got {tensor.dtype}")
    if not isinstance(steps, (list, tuple)):
        raise TypeError(f"steps: expected a list of tensors, got {got(steps)}")
    if len(steps) != len(parameters):
        raise ValueError(f"steps: expected {len(parameters)}, one a parameter, got {len(steps)}")
    for index, (step, parameter) in enumerate(zip(steps, parameters, strict=True)):
        if not isinstance(step, Tensor) or step.dtype != torch.float32:
            raise TypeError(f"steps[{index}]: expected torch.float32, got {got(getattr(step, 'dtype', step))}")
        if step.layout is not torch.strided or step.is_nested:
            raise TypeError(f"steps[{index}]: expected a dense tensor, got {step.layout}")
        if step.numel() != 1:
            raise ValueError(f"steps[{index}]: expected one element, got shape {tuple(step.shape)}")
        if step.device != parameter.device:
            raise ValueError(f"steps[{index}]: expected a tensor on {parameter.device}, got {step.device}")
    check_changeable(steps=steps)
    check_locks(locks, parameters)
    update = reference.adamw_update_
    if use_triton("adamw_update_", *parameters, *grads):
        from hat_kernels.adamw_update import triton as kernels  # a plain import, which torch.compile can trace

        update = kernels.adamw_update_
    largest = max_exp_avg_sqs if amsgrad else []
    update(parameters, grads, exp_avgs, exp_avg_sqs, largest, steps, locks, options)
