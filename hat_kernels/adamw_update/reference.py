"""Locked Adam and AdamW in pure PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat_kernels import compiling
from hat_kernels.adamw_update import fused
from hat_kernels.adamw_update.options import AdamWOptions
from hat_kernels.lock import Lock
from hat_kernels.parts import parts, widened


def adamw_update_(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    locks: Sequence[Lock | None],
    options: AdamWOptions,
) -> None:
    """See `hat_kernels.adamw_update_`."""
    if options.found_inf is not None and options.found_inf.item():
        return
    _, (beta1, beta2), eps, weight_decay, decoupled, amsgrad, maximize, grad_scale, _, mend = options
    for step in {step.data_ptr(): step for step in steps}.values():
        step += 1
    lr = float(options.lr)
    for index, (parameter, grad, lock) in enumerate(zip(parameters, grads, locks, strict=True)):
        t = steps[index].item()
        tensors = [parameter, grad, exp_avgs[index], exp_avg_sqs[index], *(max_exp_avg_sqs[index : index + 1])]
        if not mend and compiling.compiles() and compiling.are_plain(tensors, lock):
            fused.update_(tensors, t, options)
            continue
        size, decay = lr / (1 - beta1**t), lr * weight_decay if decoupled else 0.0
        for part in parts(parameter, lock, runs=True):
            target = parameter[part.rows]
            weight = part.working_copy(target)
            g = widened(grad[part.rows], mend)
            g = g if grad_scale is None else g * grad_scale
            g = -g if maximize else g
            if weight_decay and not decoupled:
                g = g.add(weight, alpha=weight_decay)

            m = part.working_copy(exp_avgs[index][part.rows]).lerp_(g, 1 - beta1)
            v = part.working_copy(exp_avg_sqs[index][part.rows]).mul_(beta2).addcmul_(g, g, value=1 - beta2)
            part.write_(exp_avgs[index][part.rows], m)
            part.write_(exp_avg_sqs[index][part.rows], v)
            if amsgrad:
                v = torch.maximum(widened(max_exp_avg_sqs[index][part.rows]), v)
                part.write_(max_exp_avg_sqs[index][part.rows], v)

            denominator = (v.sqrt() / (1 - beta2**t) ** 0.5).add_(eps)
            if part.rate is None:
                weight.mul_(1 - decay).addcdiv_(m, denominator, value=-size)
            else:
                weight.sub_(part.scaled(m / denominator * size + decay * weight))
            part.write_(target, weight, mend=mend, spare=True)
