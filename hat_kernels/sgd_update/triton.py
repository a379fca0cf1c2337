"""Launch and registration of locked SGD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hat_kernels.lock import Lock
from hat_kernels.operands import arrange, flatten, number_or_scalar, restore, scalar, split_number, unflatten
from hat_kernels.sgd_update.kernel import sgd_kernel
from hat_kernels.table import BLOCK_M, BLOCK_N, table

NUM_WARPS = 4


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
    found_inf: Tensor | None,
    mend: bool,
    limit: float | None = None,
) -> None:
    """See `hat_kernels.sgd_update_`.

    Args:
        limit: the bound of the clamp of `hat_kernels.embedding_update_`; None: the parameters are not clamped.
    """
    if torch.compiler.is_compiling():  # not in eager mode: there an operator with lists costs 10 µs more than a launch
        number, lr_tensor = split_number(lr)
        numbers = [number, momentum, dampening, weight_decay]
        flags = [nesterov, maximize, is_first_step, mend]
        lists = (list(parameters), list(grads), list(momentum_buffers))
        _sgd_update_op(*lists, *flatten(locks), lr_tensor, grad_scale, found_inf, limit, numbers, flags)
        return
    states = [momentum_buffers] if momentum else []
    operands, copies = arrange(parameters, grads, states, locks)
    if not operands:
        return
    device = operands[0].parameter.device
    rate, rate_ptr = number_or_scalar(lr, device)
    with torch.cuda.device_of(operands[0].parameter):
        pointer_table = table(operands)
        sgd_kernel[(pointer_table.programs,)](
            pointer_table.rows,
            pointer_table.owners,
            rate_ptr,
            scalar(grad_scale, device),
            scalar(found_inf, device),
            rate,
            -1.0 if maximize else 1.0,
            float(momentum),
            1.0 if is_first_step else 1.0 - dampening,
            0.0 if is_first_step else 1.0,
            float(weight_decay),
            float(limit or 0.0),
            CODES=pointer_table.codes,
            STATEFUL=bool(momentum),
            NESTEROV=nesterov,
            DECAY=weight_decay != 0,
            CLAMP=limit is not None,
            MEND=mend,
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
    sgd_update_(
        parameters,
        grads,
        momentum_buffers,
        unflatten(rows, columns, lock_numbers),
        lr=number if lr is None else lr,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        weight_decay=weight_decay,
        maximize=maximize,
        grad_scale=grad_scale,
        is_first_step=is_first_step,
        found_inf=found_inf,
        mend=mend,
        limit=limit,
    )


@_sgd_update_op.register_fake
def _(*_: Any) -> None:
    return None
