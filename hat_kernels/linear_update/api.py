"""The step of SGD on the weight of a linear layer, without storing the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.check import check_changeable, check_tensors
from hat_kernels.dispatch import use_triton
from hat_kernels.linear_update import reference
from hat_kernels.lock import Lock, check_lock
from hat_kernels.sgd_update.options import SGDOptions


def linear_update_(
    weight: Tensor,
    dz: Tensor,
    x: Tensor,
    lock: Lock | None = None,
    *,
    lr: float | Tensor,
    weight_decay: float = 0.0,
    maximize: bool = False,
    mend: bool = False,
) -> Tensor:
    """`W -= lr * rate * (dz^T x + weight_decay * W)` in place, as one matmul: the gradient is never in memory.

    This is the step of `hat_kernels.sgd_update_` without momentum, under the lock of Serrà et al. 2018, eq. 2. A weight
    of rate 0 keeps its bits, whatever the gradient holds. On a GPU a tile with only such weights costs nothing.

    The exception: on a GPU where the matmul of the vendor was measured to be faster, that matmul computes the gradient
    into memory, and a second launch makes the step. See `hat_kernels/gated_linear/choice.py`.

    Args:
        weight: [N, K], of the dtype of `x`, or float32.
        dz: [M, N], the gradient of `x W^T`.
        x: [M, K], of the dtype of `dz`.
        lock: the free units along N and K, without groups; None: nothing is locked.
        lr: learning rate >= 0, a number or a 0-d tensor.
        weight_decay: >= 0.
        maximize: ascend instead of descend, with `-dz^T x` in the place of `dz^T x`.
        mend: elements of the gradient that are not finite count as 0. If there is a lock, the result is also clamped to
            the range of float16; see `hat_kernels.sgd_update_`.

    Returns:
        `weight`.

    Raises:
        ValueError: shapes or devices differ, the lock does not fit, elements of `weight` share memory, a number is out
            of range, or autograd records a change of `weight`.
        TypeError: a tensor is not dense and floating, `x` and `dz` differ in dtype, or the dtype of `weight` is neither
            theirs nor float32.
    """
    check_tensors(weight=weight, dz=dz, x=x)
    if weight.dim() != 2:
        raise ValueError(f"weight: expected shape (N, K), got {tuple(weight.shape)}")
    for name, tensor, width in (("dz", dz, weight.shape[0]), ("x", x, weight.shape[1])):
        if tensor.dim() != 2 or tensor.shape[1] != width or len(tensor) != len(dz):
            rows = "M" if tensor is dz else len(dz)
            raise ValueError(f"{name}: expected shape ({rows}, {width}), got {tuple(tensor.shape)}")
        if tensor.device != weight.device:
            raise ValueError(f"{name}: expected device {weight.device}, got {tensor.device}")
    if x.dtype != dz.dtype:
        raise TypeError(f"x: expected {dz.dtype} as dz, got {x.dtype}")
    if weight.dtype not in (x.dtype, torch.float32):
        raise TypeError(f"weight: expected {x.dtype} or torch.float32, got {weight.dtype}")
    if lock is not None:
        check_lock(lock, weight)
        if lock.groups > 1:
            raise ValueError(f"lock: expected no groups, got {lock.groups}")
    check_changeable(weight=weight)
    SGDOptions(lr, weight_decay=weight_decay, maximize=maximize, mend=mend).check(weight.device)
    update = reference.linear_update_
    if use_triton("linear_update_", weight, dz, x):
        from hat_kernels.linear_update import triton as kernels  # a plain import, which torch.compile can trace

        update = kernels.linear_update_
    update(weight, dz, x, lock, lr=lr, weight_decay=weight_decay, maximize=maximize, mend=mend)
    return weight
