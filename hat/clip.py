"""What a gradient must be before a step: finite, and clipped by the global norm of what may move."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

import hat_kernels
from hat.warnings import NonFiniteWarning
from hat_kernels import Lock
from hat_kernels.lock import LARGEST
from hat_kernels.parts import bounded, parts


def clip(
    grads: Sequence[Tensor], locks: Sequence[Lock | None], max_norm: float | None, grad_scale: Tensor | None = None
) -> tuple[Tensor | None, bool]:
    """(factor, mend): what the update shall multiply the gradients with, and whether it shall mend them.

    On a CPU they are mended here, where that is cheaper, see `tame_`; on a GPU it costs nothing in the update itself.
    """
    if not grads or grads[0].device.type == "cpu":
        return tame_(grads, locks, max_norm, grad_scale), False
    if max_norm is None:
        return grad_scale, True
    return hat_kernels.clip_factor(grads, locks, max_norm, grad_scale=grad_scale, mend=True), True


def tame_(
    grads: Sequence[Tensor], locks: Sequence[Lock | None], max_norm: float | None, grad_scale: Tensor | None = None
) -> Tensor | None:
    """Zero what is not finite, in place, and return the factor that clips the rest.

    A weight of NaN would reach finished tasks: they meet it with an input of exactly 0, but 0 * NaN is NaN.

    Args:
        grads: of one device.
        locks: one a gradient; None where nothing is locked.
        max_norm: the largest global norm of the locked gradients, or None.
        grad_scale: 0-d factor that the gradients are still to be multiplied with (one over a loss scale), or None.

    Returns:
        0-d tensor `grad_scale * min(1, max_norm / (grad_scale * norm + 1e-6))`, as `torch.nn.utils.clip_grad_norm_` has
        it; None for a factor of 1.

    Warns:
        NonFiniteWarning: there was something to zero; on a CPU only, elsewhere to look would stall the stream.
    """
    if not grads:
        return grad_scale
    if grads[0].device.type != "cpu":
        _mend_(grads)
    else:  # here a look at the norm is free of synchronisation, and saves the passes that are not needed
        norm = hat_kernels.gradient_norm(grads, [None] * len(grads))
        if not torch.isfinite(norm):
            warnings.warn("a gradient holds inf or NaN, which count as 0: is the loss finite?", NonFiniteWarning, 2)
            _mend_(grads)
        elif max_norm is None or norm * (1 if grad_scale is None else grad_scale) <= max_norm:
            return grad_scale  # no lock makes a norm larger
    if max_norm is None:
        return grad_scale
    return hat_kernels.clip_factor(grads, locks, max_norm, grad_scale=grad_scale)


def keep_finite_(locks: Mapping[Tensor, Lock]) -> None:
    """Bring back what a step has thrown out of bounds, in place: finished tasks meet it with an input of 0.

    The bounds are those of float16, which autocast may cast a weight to: beyond them 0 * inf waits as well.

    Args:
        locks: of the parameters; locked elements are left alone.
    """
    for parameter, lock in locks.items():
        # The norm bounds every element, and takes half the time of the extremes.
        if parameter.device.type == "cpu" and hat_kernels.gradient_norm([parameter], [None]) <= LARGEST:
            continue
        for part in parts(parameter, lock):
            part.write_(parameter[part.rows], bounded(parameter[part.rows]))


def _mend_(values: Sequence[Tensor]) -> None:
    for value in values:
        value.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
