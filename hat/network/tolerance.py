"""When two answers are the same: whoever runs a network in two ways compares here.

Bits are compared by `largest_change`. Where sums are taken in another order no bit is promised, and `difference` says
whether more than rounding lies between the two: one table of tolerances for conversion, moves, mixed batches, resizing
and export.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SUMS = 2**8
"""Roundings between two runs of one network with its own weights, whose sums are taken in another order."""
LAYERS = 2**12
"""Roundings between two networks, through many layers, and with drawn weights, which are larger than trained ones."""
_LOOSEST = {SUMS: 0.125, LAYERS: 0.25}
"""The largest share of the largest value: in float16 and bfloat16 so many roundings would allow anything."""
_SMALLEST = 1e-6  # values that are all below this count as 0


def difference(got: Tensor, expected: Tensor, roundings: int, *, equal_nan: bool = False) -> float:
    """How far `got` is from `expected`, if that is more than rounding.

    Args:
        got: what is tested.
        expected: what it should be.
        roundings: how many roundings of the largest finite value of `expected` are allowed, `SUMS` or `LAYERS`.
        equal_nan: NaN at the same places is no difference.

    Returns:
        0.0 if there is no more than rounding between the two; else the largest absolute difference. It is inf if the
        shapes differ, if values differ that are no floating numbers, or if a NaN or inf is in the way.
    """
    if got.shape != expected.shape or got.is_floating_point() != expected.is_floating_point():
        return math.inf
    if not expected.is_floating_point():
        return 0.0 if torch.equal(got, expected) else math.inf
    finite = expected[expected.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    share = min(roundings * torch.finfo(expected.dtype).eps, _LOOSEST[roundings])
    bound = share * max(largest, _SMALLEST)
    if torch.allclose(got.to(expected.dtype), expected, rtol=0.0, atol=bound, equal_nan=equal_nan):
        return 0.0
    return largest_change(got, expected)


def largest_change(now: Tensor, then: Tensor) -> float:
    """The largest absolute difference: exactly 0.0 only if every element is equal, inf for a NaN or inf."""
    if torch.equal(now, then):
        return 0.0
    change = (now - then).abs().max().item()
    return change if math.isfinite(change) else math.inf
