"""Launch and registration of the embeddings' step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hat_kernels.embedding_update.kernel import embedding_kernel
from hat_kernels.operands import arrange, number_or_scalar, restore, scalar, split_number
from hat_kernels.table import BLOCK_M, BLOCK_N, table

BLOCK = BLOCK_M * BLOCK_N  # a program's elements in a table of one tile a program
NUM_WARPS = 4


def embedding_update_(
    embeddings: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    *,
    lr: float | Tensor,
    momentum: float,
    dampening: float,
    nesterov: bool,
    maximize: bool,
    grad_scale: Tensor | None,
    is_first_step: bool,
    limit: float,
    found_inf: Tensor | None,
    mend: bool,
) -> None:
    """See `hat_kernels.embedding_update_`."""
    if torch.compiler.is_compiling():
        number, lr_tensor = split_number(lr)
        numbers = [number, momentum, dampening, limit]
        flags = [nesterov, maximize, is_first_step, mend]
        lists = (list(embeddings), list(grads), list(momentum_buffers))
        _embedding_update_op(*lists, lr_tensor, grad_scale, found_inf, numbers, flags)
        return
    states = [momentum_buffers] if momentum else []
    operands, copies = arrange(embeddings, grads, states)
    if not operands:
        return
    device = operands[0].parameter.device
    rate, rate_ptr = number_or_scalar(lr, device)
    with torch.cuda.device_of(operands[0].parameter):
        built = table(operands, steps=1)
        embedding_kernel[(built.programs,)](
            built.rows,
            built.owners,
            rate_ptr,
            scalar(grad_scale, device),
            scalar(found_inf, device),
            rate,
            -1.0 if maximize else 1.0,
            float(momentum),
            1.0 if is_first_step else 1.0 - dampening,
            0.0 if is_first_step else 1.0,
            float(limit),
            CODES=built.codes,
            STATEFUL=bool(momentum),
            NESTEROV=nesterov,
            MEND=mend,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
            enable_fp_fusion=True,
        )
        restore(copies)
    torch.autograd.graph.increment_version([*embeddings, *momentum_buffers])


@torch.library.custom_op("hat_kernels::embedding_update_", mutates_args=("embeddings", "momentum_buffers"))
def _embedding_update_op(
    embeddings: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    lr: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    numbers: Sequence[float],
    flags: Sequence[bool],
) -> None:
    number, momentum, dampening, limit = numbers
    nesterov, maximize, is_first_step, mend = flags
    embedding_update_(
        embeddings,
        grads,
        momentum_buffers,
        lr=number if lr is None else lr,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        maximize=maximize,
        grad_scale=grad_scale,
        is_first_step=is_first_step,
        limit=limit,
        found_inf=found_inf,
        mend=mend,
    )


@_embedding_update_op.register_fake
def _(*_: Any) -> None:
    return None
