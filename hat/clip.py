"""What a gradient must be before a step: finite, and clipped by the global norm of what may move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

import hat_kernels
from hat_kernels import Lock


def tame_(grads: Sequence[Tensor], locks: Sequence[Lock | None], max_norm: float | None) -> Tensor | None:
    """Zero what is not finite, in place, and return the factor that clips the rest.

    A weight of NaN would reach finished tasks: they meet it with an input of exactly 0, but 0 * NaN is NaN.

    Args:
        grads: of one device.
        locks: one a gradient; None where nothing is locked.
        max_norm: the largest global norm of the locked gradients, or None.

    Returns:
        0-d tensor `min(1, max_norm / (norm + 1e-6))`, as `torch.nn.utils.clip_grad_norm_` has it;
        None for a factor of 1.
    """
    if not grads:
        return None
    if grads[0].device.type != "cpu":
        _mend_(grads)
    else:  # here a look at the norm is free of synchronisation, and saves the passes that are not needed
        norm = hat_kernels.gradient_norm(grads, [None] * len(grads))
        if not torch.isfinite(norm):
            _mend_(grads)
        elif max_norm is None or norm <= max_norm:  # no lock makes a norm larger
            return None
    if max_norm is None:
        return None
    return (max_norm / (hat_kernels.gradient_norm(grads, locks) + 1e-6)).clamp(max=1.0)


def keep_finite_(parameters: Iterable[Tensor]) -> None:
    """Zero what a step has overflowed, in place: finished tasks meet it with an input of 0, see `tame_`."""
    for parameter in parameters:
        if parameter.device.type != "cpu" or not torch.isfinite(parameter.sum()):
            _mend_([parameter])


def _mend_(values: Sequence[Tensor]) -> None:
    for value in values:
        value.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
