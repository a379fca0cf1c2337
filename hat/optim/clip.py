"""What a gradient must be before a step: finite, and clipped by the global norm of what may move."""

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
    """What a step must know of its gradients.

    Attributes:
        factor: 0-d, what the update shall multiply them with; None for 1.
        mend: the update shall count what is not finite as 0.
        norms: on a CPU, a number no less than the norm of each; None where it is not known.
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
    """Clip by the global norm of what may move, and count inf and NaN as 0.

    On a CPU the gradients are mended here, where that is cheaper, see `tame_`; on a GPU it costs nothing in the update
    itself.
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
    """Zero what is not finite, in place, and return the factor that clips the rest.

    A weight of NaN would reach finished tasks: they meet it with an input of exactly 0, but 0 * NaN is NaN.

    Args:
        grads: of one device.
        locks: one a gradient; None where nothing is locked.
        max_norm: the largest global norm of the locked gradients, or None.
        grad_scale: 0-d factor that the gradients are still to be multiplied with (one over a loss scale), or None.
        bounds: one a gradient, a number no less than its norm if one is known; finite for a finite gradient. Where
            these settle that nothing is clipped, no norm is computed.

    Returns:
        The factor `grad_scale * min(1, max_norm / (grad_scale * norm + 1e-6))`, as `torch.nn.utils.clip_grad_norm_` has
        it.

    Warns:
        NonFiniteWarning: there was something to zero; on a CPU only, elsewhere to look would stall the stream.
    """
    if not grads:
        return Tamed(grad_scale)
    if not free_to_read(grads[0]):
        _mend_(grads)
        factor = grad_scale if max_norm is None else _factor(grads, locks, max_norm, grad_scale)
        return Tamed(factor)
    scale = 1.0 if grad_scale is None else grad_scale.item()
    most = math.inf if max_norm is None else max_norm
    for known in (bounds or [], []):  # no lock makes a norm larger, nor does a bound
        norms = _norms(grads, known)
        total = math.hypot(*norms)
        if math.isfinite(total) and total * scale <= most:
            return Tamed(grad_scale, norms=norms)
    if not math.isfinite(total):
        warnings.warn("a gradient holds inf or NaN, which count as 0: is the loss finite?", NonFiniteWarning, 2)
        _mend_(grads)
        norms = _norms(grads, [])
    factor = grad_scale if max_norm is None else _factor(grads, locks, max_norm, grad_scale)
    return Tamed(factor, norms=norms)


def _norms(grads: Sequence[Tensor], known: Sequence[float | None]) -> list[float]:
    """The norm of every gradient, or what is known instead."""
    unknown = [grad for grad, bound in zip_longest(grads, known) if bound is None]
    measured = iter(torch.stack(_measured(unknown)).tolist() if unknown else [])
    return [next(measured) if bound is None else bound for _, bound in zip_longest(grads, known)]


def _measured(grads: Sequence[Tensor]) -> list[Tensor]:
    """The norm of every gradient, float32 at least: the small ones in one call, which would cost more than they do."""
    small = [grad for grad in grads if grad.numel() <= _SMALL and grad.dtype == torch.float32]
    at_once = iter(torch._foreach_norm(small) if small else ())
    own = {id(grad) for grad in small}
    return [next(at_once) if id(grad) in own else hat_kernels.gradient_norm([grad], [None]) for grad in grads]


def _factor(
    grads: Sequence[Tensor], locks: Sequence[Lock | None], max_norm: float, grad_scale: Tensor | None
) -> Tensor:
    return hat_kernels.clip_factor(grads, locks, max_norm, grad_scale=grad_scale)


def keep_finite_(parts_: Sequence[tuple[Tensor, Lock | None]]) -> None:
    """Bring back what a step has thrown out of bounds, in place: finished tasks meet it with an input of 0.

    The bounds are those of float16, which autocast may cast a weight to: beyond them 0 * inf waits as well.

    Args:
        parts_: of parameters that finished tasks meet, and their locks; locked elements are left alone.
    """
    for values, lock in parts_:
        # The norm bounds every element, and takes half the time of the extremes.
        if free_to_read(values) and hat_kernels.gradient_norm([values], [None]) <= LARGEST:
            continue
        for part in parts(values, lock):
            part.write_(values[part.rows], bounded(values[part.rows]))


def _mend_(values: Sequence[Tensor]) -> None:
    for value in values:
        value.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
