"""Launch and registration of locked SGD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hat_kernels.lock import Lock
from hat_kernels.operands import arrange, flatten, number_or_scalar, restore, scalar, split_number, unflatten
from hat_kernels.sgd_update.kernel import sgd_kernel
from hat_kernels.sgd_update.options import SGDOptions
from hat_kernels.table import BLOCK_M, BLOCK_N, table

NUM_WARPS = 4


def sgd_update_(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    locks: Sequence[Lock | None],
    options: SGDOptions,
) -> None:
    """See `hat_kernels.sgd_update_`."""
    if torch.compiler.is_compiling():  # not in eager mode: there an operator with lists costs 10 µs more than a launch
        number, lr = split_number(options.lr)
        numbers = [number, options.momentum, options.dampening, options.weight_decay]
        flags = [options.nesterov, options.maximize, options.is_first_step, options.mend]
        lists = (list(parameters), list(grads), list(momentum_buffers))
        scalars = (lr, options.grad_scale, options.found_inf, options.limit)
        _sgd_update_op(*lists, *flatten(locks), *scalars, numbers, flags)
        return
    states = [momentum_buffers] if options.momentum else []
    operands, copies = arrange(parameters, grads, states, locks)
    if not operands:
        return
    device = operands[0].parameter.device
    rate, rate_ptr = number_or_scalar(options.lr, device)
    with torch.cuda.device_of(operands[0].parameter):
        pointer_table = table(operands)
        sgd_kernel[(pointer_table.programs,)](
            pointer_table.rows,
            pointer_table.owners,
            rate_ptr,
            scalar(options.grad_scale, device),
            scalar(options.found_inf, device),
            rate,
            -1.0 if options.maximize else 1.0,
            float(options.momentum),
            1.0 if options.is_first_step else 1.0 - options.dampening,
            0.0 if options.is_first_step else 1.0,
            float(options.weight_decay),
            float(options.limit or 0.0),
            CODES=pointer_table.codes,
            STATEFUL=bool(options.momentum),
            NESTEROV=options.nesterov,
            DECAY=options.weight_decay != 0,
            CLAMP=options.limit is not None,
            MEND=options.mend,
            STEPS=pointer_table.steps,
            BLOCK_M=BLOCK_M,
            BLOCK_N=BLOCK_N,
            num_warps=NUM_WARPS,
            enable_fp_fusion=True,
        )
        restore(copies)
    torch.autograd.graph.increment_version([*parameters, *momentum_buffers])


@torch.library.custom_op("hat_kernels::sgd_update_", mutates_args=("parameters", "momentum_buffers"))
def _sgd_update_op(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    rows: Sequence[Tensor | None],
    columns: Sequence[Tensor | None],
    lock_numbers: Sequence[int],
    lr: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    limit: float | None,
    numbers: Sequence[float],
    flags: Sequence[bool],
) -> None:
    number, momentum, dampening, weight_decay = numbers
    nesterov, maximize, is_first_step, mend = flags
    options = SGDOptions(
        number if lr is None else lr,
        momentum,
        dampening,
        nesterov,
        weight_decay,
        maximize,
        grad_scale,
        is_first_step,
        found_inf,
        mend,
        limit,
    )
    sgd_update_(parameters, grads, momentum_buffers, unflatten(rows, columns, lock_numbers), options)


@_sgd_update_op.register_fake
def _(*_: Any) -> None:
    return None
