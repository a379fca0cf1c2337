"""Launch and registration of locked Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from hat_kernels.adamw_update.kernel import adamw_kernel, advance_kernel
from hat_kernels.adamw_update.options import AdamWOptions
from hat_kernels.lock import Lock
from hat_kernels.operands import arrange, flatten, number_or_scalar, restore, scalar, split_number, unflatten
from hat_kernels.table import BLOCK_M, BLOCK_N, table

NUM_WARPS = 4
NO_DECAY, DECOUPLED, ADDED = range(3)


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
    if torch.compiler.is_compiling():
        number, lr = split_number(options.lr)
        numbers = [number, *options.betas, options.eps, options.weight_decay]
        flags = [options.decoupled, options.amsgrad, options.maximize, options.mend]
        lists = [list(tensors) for tensors in (parameters, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps)]
        _adamw_update_op(*lists, *flatten(locks), lr, options.grad_scale, options.found_inf, numbers, flags)
        return
    states = [exp_avgs, exp_avg_sqs, max_exp_avg_sqs] if options.amsgrad else [exp_avgs, exp_avg_sqs]
    operands, copies = arrange(parameters, grads, states, locks, steps)
    if not operands:
        return
    device = operands[0].parameter.device
    rate, rate_ptr = number_or_scalar(options.lr, device)
    found_inf_ptr = scalar(options.found_inf, device)
    with torch.cuda.device_of(operands[0].parameter):
        pointer_table = table(operands)
        block = max(32, triton.next_power_of_2(pointer_table.length))
        advance_kernel[(1,)](
            pointer_table.rows, found_inf_ptr, pointer_table.length, BLOCK=block, num_warps=1, enable_fp_fusion=True
        )
        adamw_kernel[(pointer_table.programs,)](
            pointer_table.rows,
            pointer_table.owners,
            rate_ptr,
            scalar(options.grad_scale, device),
            found_inf_ptr,
            rate,
            -1.0 if options.maximize else 1.0,
            *(math.log(beta) if beta else -math.inf for beta in options.betas),
            float(options.betas[1]),
            1.0 - options.betas[0],
            1.0 - options.betas[1],
            float(options.eps),
            float(options.weight_decay),
            CODES=pointer_table.codes,
            AMSGRAD=options.amsgrad,
            DECAY=NO_DECAY if not options.weight_decay else DECOUPLED if options.decoupled else ADDED,
            MEND=options.mend,
            STEPS=pointer_table.steps,
            BLOCK_M=BLOCK_M,
            BLOCK_N=BLOCK_N,
            num_warps=NUM_WARPS,
            enable_fp_fusion=True,
        )
        restore(copies)
    torch.autograd.graph.increment_version([*parameters, *(tensor for state in states for tensor in state), *steps])


@torch.library.custom_op(
    "hat_kernels::adamw_update_",
    mutates_args=("parameters", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "steps"),
)
def _adamw_update_op(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    rows: Sequence[Tensor | None],
    columns: Sequence[Tensor | None],
    lock_numbers: Sequence[int],
    lr: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    numbers: Sequence[float],
    flags: Sequence[bool],
) -> None:
    number, beta1, beta2, eps, weight_decay = numbers
    decoupled, amsgrad, maximize, mend = flags
    options = AdamWOptions(
        number if lr is None else lr,
        (beta1, beta2),
        eps,
        weight_decay,
        decoupled,
        amsgrad,
        maximize,
        grad_scale,
        found_inf,
        mend,
    )
    locks = unflatten(rows, columns, lock_numbers)
    adamw_update_(parameters, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, locks, options)


@_adamw_update_op.register_fake
def _(*_: Any) -> None:
    return None
