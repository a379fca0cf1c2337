"""Prepare gradients for a step: make them finite, and clip them by the global norm of what may move."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

import hat_kernels
from hat.warnings import NonFiniteWarning
from hat_kernels import Lock
from hat_kernels.dispatch import free_to_read
from hat_kernels.limits import LARGEST
from hat_kernels.parts import bounded, parts

_SMALL = 2**16  # elements


class Tamed(NamedTuple):
    """How a step must treat its gradients.

    Attributes:
        factor: 0-d, the factor of the gradients in the update; None for 1.
        mend: the update must count inf and NaN in gradients as 0.
        norms: on a CPU, an upper bound of the norm of every gradient; None if the norms are not known.
    """

    factor: Tensor | None
    mend: bool = False
    norms: Sequence[float] | None = None


def clip(
    grads: Sequence[Tensor],
    locks: Sequence[Lock | None],
    max_norm: float | None,
    grad_scale: Tensor | None = None,
    bounds: Sequence[float | None] | None = None,
) -> Tamed:
    """Clip by the global norm of what may move, and count inf and NaN as 0. Arguments as in `tame_`.

    On a CPU this function itself replaces inf and NaN (see `tame_`), which is cheaper there. On a GPU the update
    replaces them, which costs nothing.
    """
    if not grads or free_to_read(grads[0]):
        return tame_(grads, locks, max_norm, grad_scale, bounds)
    if max_norm is None:
        return Tamed(grad_scale, mend=True)
    return Tamed(hat_kernels.clip_factor(grads, locks, max_norm, grad_scale=grad_scale, mend=True), mend=True)


def tame_(
    grads: Sequence[Tensor],
    locks: Sequence[Lock | None],
    max_norm: float | None,
    grad_scale: Tensor | None = None,
    bounds: Sequence[float | None] | None = None,
) -> Tamed:
    """Set inf and NaN in gradients to 0, in place, and compute the factor that clips the gradients.

    A NaN in a weight would reach finished tasks: they multiply the weight with an input of exactly 0, but 0 * NaN is
    NaN.

    Args:
        grads: gradients on one device.
        locks: one a gradient; None if nothing of the gradient is locked.
        max_norm: the largest global norm of the locked gradients, or None.
        grad_scale: 0-d factor of the gradients that is not yet applied (1 / loss scale), or None.
        bounds: one a gradient, an upper bound of its norm, or None; the bound of a finite gradient is finite. If the
            bounds show that nothing needs clipping, no norm is computed.

    Returns:
        The factor `grad_scale * min(1, max_norm / (grad_scale * norm + 1e-6))`, as in
        `torch.nn.utils.clip_grad_norm_`.

    Warns:
        NonFiniteWarning: a gradient held inf or NaN. Only on a CPU; on other devices the host would have to wait.
    """
    if not grads:
        return Tamed(grad_scale)
    if not free_to_read(grads[0]):
        _mend_(grads)
        factor = grad_scale if max_norm is None else _factor(grads, locks, max_norm, grad_scale)
        return Tamed(factor)
    scale = 1.0 if grad_scale is None else grad_scale.item()
    limit = math.inf if max_norm is None else max_norm
    # First try the bounds, then the norms without locks: the clipped norm is never larger than either of them.
    for known_norms in (bounds or [], []):
        norms = _norms(grads, known_norms)
        total = math.hypot(*norms)
        if math.isfinite(total) and total * scale <= limit:
            return Tamed(grad_scale, norms=norms)
    if not math.isfinite(total):
        warnings.warn("a gradient holds inf or NaN, which count as 0: is the loss finite?", NonFiniteWarning, 2)
        _mend_(grads)
        norms = _norms(grads, [])
    factor = grad_scale if max_norm is None else _factor(grads, locks, max_norm, grad_scale)
    return Tamed(factor, norms=norms)


def _norms(grads: Sequence[Tensor], bounds: Sequence[float | None]) -> list[float]:
    """The bound of every gradient; its measured norm if there is no bound."""
    unbounded = [grad for grad, bound in zip_longest(grads, bounds) if bound is None]
    measured = iter(torch.stack(_measured(unbounded)).tolist() if unbounded else [])
    return [next(measured) if bound is None else bound for _, bound in zip_longest(grads, bounds)]


def _measured(grads: Sequence[Tensor]) -> list[Tensor]:
    """The norm of every gradient, at least float32. Small gradients share one call, because calls cost more."""
    small = [grad for grad in grads if grad.numel() <= _SMALL and grad.dtype == torch.float32]
    small_norms = iter(torch._foreach_norm(small) if small else ())
    small_ids = {id(grad) for grad in small}
    return [next(small_norms) if id(grad) in small_ids else hat_kernels.gradient_norm([grad], [None]) for grad in grads]


def _factor(
    grads: Sequence[Tensor], locks: Sequence[Lock | None], max_norm: float, grad_scale: Tensor | None
) -> Tensor:
    return hat_kernels.clip_factor(grads, locks, max_norm, grad_scale=grad_scale)


def keep_finite_(parts_: Sequence[tuple[Tensor, Lock | None]]) -> None:
    """Bring weights back into the range of float16 after a step, in place.

    Finished tasks multiply these weights with an input of 0, and 0 * inf is NaN. A weight beyond the range of float16
    is just as bad as inf, because autocast may cast it.

    Args:
        parts_: parts of parameters that finished tasks read, and their locks. Locked elements are not changed.
    """
    for values, lock in parts_:
        # The norm bounds every element, and takes half the time of minimum and maximum.
        if free_to_read(values) and hat_kernels.gradient_norm([values], [None]) <= LARGEST:
            continue
        for part in parts(values, lock):
            part.write_(values[part.rows], bounded(values[part.rows]))


def _mend_(values: Sequence[Tensor]) -> None:
    for value in values:
        value.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
