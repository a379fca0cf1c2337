"""Launch and registration of the SGD step inside a matmul. The kernel is in `gated_linear/gradient.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hat_kernels.dispatch import forced
from hat_kernels.gated_linear.choice import choose
from hat_kernels.gated_linear.gradient import gradient
from hat_kernels.gated_linear.matmul import kind
from hat_kernels.lock import Lock
from hat_kernels.operands import split_number
from hat_kernels.sgd_update.options import SGDOptions
from hat_kernels.sgd_update.triton import sgd_update_


def linear_update_(
    weight: Tensor,
    dz: Tensor,
    x: Tensor,
    lock: Lock | None,
    *,
    lr: float | Tensor,
    weight_decay: float,
    maximize: bool,
    mend: bool,
) -> None:
    """See `hat_kernels.linear_update_`."""
    if torch.compiler.is_compiling():  # not in eager mode: there an operator would cost as much as the launch
        number, lr_tensor = split_number(lr)
        lock_arguments = (None, None, 1, 1) if lock is None else lock[:4]
        _linear_update_op(weight, dz, x, lr_tensor, *lock_arguments, number, weight_decay, maximize, mend)
        return
    if not weight.numel():
        return
    units, depth = weight.shape
    block = choose("update", kind(x.dtype), len(x), units, depth, x.device, forced=forced())
    options = SGDOptions(lr, weight_decay=weight_decay, maximize=maximize, mend=mend)
    if block is None:
        _by_vendor(weight, dz, x, lock, options)
        return
    gradient(dz, x, weight, (0, 0), lock, options, block)
    torch.autograd.graph.increment_version(weight)


def _by_vendor(weight: Tensor, dz: Tensor, x: Tensor, lock: Lock | None, options: SGDOptions) -> None:
    lr = options.lr
    if lock is None and not options.mend and weight.dtype == x.dtype and not isinstance(lr, Tensor):
        weight.addmm_(dz.t(), x, beta=1 - lr * options.weight_decay, alpha=lr if options.maximize else -lr)
        return
    sgd_update_([weight], [(dz.t() @ x).to(weight.dtype)], [], [lock], options)


@torch.library.custom_op("hat_kernels::linear_update_", mutates_args=("weight",))
def _linear_update_op(
    weight: Tensor,
    dz: Tensor,
    x: Tensor,
    lr: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    row_repeat: int,
    column_repeat: int,
    number: float,
    weight_decay: float,
    maximize: bool,
    mend: bool,
) -> None:
    lock = None if rows is None and columns is None else Lock(rows, columns, row_repeat, column_repeat)
    linear_update_(
        weight,
        dz,
        x,
        lock,
        lr=number if lr is None else lr,
        weight_decay=weight_decay,
        maximize=maximize,
        mend=mend,
    )


@_linear_update_op.register_fake
def _(*_: Any) -> None:
    return None
