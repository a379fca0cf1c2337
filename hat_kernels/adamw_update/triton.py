"""Launch, registration and shipped configurations of locked Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from hat_kernels.adamw_update.kernel import adamw_kernel, advance_kernel
from hat_kernels.configuration import Configuration
from hat_kernels.lock import Lock
from hat_kernels.operands import arrange, flatten, number_or_scalar, restore, scalar, split_number, unflatten
from hat_kernels.table import BLOCK_M, BLOCK_N, STEPS, dtype_code, table

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
    *,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    amsgrad: bool,
    maximize: bool,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    mend: bool,
) -> None:
    """See `hat_kernels.adamw_update_`."""
    if torch.compiler.is_compiling():
        number, lr_tensor = split_number(lr)
        numbers = [number, *betas, eps, weight_decay]
        flags = [decoupled, amsgrad, maximize, mend]
        lists = [list(tensors) for tensors in (parameters, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps)]
        _adamw_update_op(*lists, *flatten(locks), lr_tensor, grad_scale, found_inf, numbers, flags)
        return
    states = [exp_avgs, exp_avg_sqs, max_exp_avg_sqs] if amsgrad else [exp_avgs, exp_avg_sqs]
    operands, copies = arrange(parameters, grads, states, locks, steps)
    if not operands:
        return
    device = operands[0].parameter.device
    rate, rate_ptr = number_or_scalar(lr, device)
    found_inf_ptr = scalar(found_inf, device)
    with torch.cuda.device_of(operands[0].parameter):
        built = table(operands)
        block = max(32, triton.next_power_of_2(built.length))
        advance_kernel[(1,)](built.rows, found_inf_ptr, built.length, BLOCK=block, num_warps=1, enable_fp_fusion=True)
        adamw_kernel[(built.programs,)](
            built.rows,
            built.owners,
            rate_ptr,
            scalar(grad_scale, device),
            found_inf_ptr,
            rate,
            -1.0 if maximize else 1.0,
            *(math.log(beta) if beta else -math.inf for beta in betas),
            float(betas[1]),
            1.0 - betas[0],
            1.0 - betas[1],
            float(eps),
            float(weight_decay),
            CODES=built.codes,
            AMSGRAD=amsgrad,
            DECAY=NO_DECAY if not weight_decay else DECOUPLED if decoupled else ADDED,
            MEND=mend,
            STEPS=built.steps,
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
    adamw_update_(
        parameters,
        grads,
        exp_avgs,
        exp_avg_sqs,
        max_exp_avg_sqs,
        steps,
        unflatten(rows, columns, lock_numbers),
        lr=number if lr is None else lr,
        betas=(beta1, beta2),
        eps=eps,
        weight_decay=weight_decay,
        decoupled=decoupled,
        amsgrad=amsgrad,
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
        mend=mend,
    )


@_adamw_update_op.register_fake
def _(*_: Any) -> None:
    return None


def _configuration(
    name: str,
    parameter: torch.dtype,
    *,
    state: torch.dtype = torch.float32,
    steps: int = 1,
    scalars: bool = False,
    amsgrad: bool = False,
    decay: int = DECOUPLED,
) -> Configuration:
    pointers = {"lr_ptr": "*fp32", "scale_ptr": "*fp32", "found_inf_ptr": "*fp32"}
    numbers = ("lr", "sign", "log_beta1", "log_beta2", "beta2", "new1", "new2", "eps", "weight_decay")
    return Configuration(
        name=f"adamw_update-{name}",
        kernel=adamw_kernel,
        signature={
            "rows_ptr": "*i64",
            "owners_ptr": "*i64",
            **(pointers if scalars else {}),
            **dict.fromkeys(numbers, "fp32"),
        },
        constants={
            **({} if scalars else dict.fromkeys(pointers)),
            "CODES": 1 << dtype_code(parameter, parameter, state),
            "AMSGRAD": amsgrad,
            "DECAY": decay,
            "MEND": scalars,
            "STEPS": steps,
            "BLOCK_M": BLOCK_M,
            "BLOCK_N": BLOCK_N,
        },
        aligned=("rows_ptr",),
        options={"num_warps": NUM_WARPS},
    )


CONFIGURATIONS: list[Configuration] = [
    _configuration("fp32", torch.float32),
    _configuration("fp32-large", torch.float32, steps=STEPS[-1]),
    _configuration("fp32-scaled", torch.float32, scalars=True),
    _configuration("fp32-amsgrad", torch.float32, amsgrad=True, decay=ADDED),
    _configuration("fp32-amsgrad-large", torch.float32, amsgrad=True, steps=STEPS[-1], scalars=True),
    _configuration("bf16", torch.bfloat16, scalars=True),
    _configuration("bf16-large", torch.bfloat16, steps=STEPS[-1], scalars=True),
    _configuration("bf16-amsgrad", torch.bfloat16, amsgrad=True, scalars=True),
    _configuration("fp16", torch.float16, scalars=True),
    Configuration(
        name="adamw_update-advance",
        kernel=advance_kernel,
        signature={"rows_ptr": "*i64", "found_inf_ptr": "*fp32", "count": "i32"},
        constants={"BLOCK": 32},
        aligned=("rows_ptr",),
        options={"num_warps": 1},
        vector_bits=0,
    ),
]
