"""Whether two results of a network are the same.

`largest_change` compares bits. `difference` compares up to rounding: if sums are computed in another order, the last
bits differ. Conversion, moves of units, mixed batches, resizing and export share the two tolerances of this file.

Example in float32, with a largest expected value of 4: `SUMS` allows a difference of 2^8 * 2^-23 * 4 = 1.2e-4, `LAYERS`
one of 2^12 * 2^-23 * 4 = 2e-3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SUMS = 2**8
"""The roundings allowed between two runs of a network with its own weights, with sums in another order."""
LAYERS = 2**12
"""The roundings allowed between two networks of many layers with drawn weights, which are larger than trained ones."""
_LOOSEST = {SUMS: 0.125, LAYERS: 0.25}
"""The largest tolerance, as a share of the largest value: in float16 and bfloat16, the roundings would allow more."""
_SMALLEST = 1e-6  # if all values are smaller than this, the tolerance is as for this value


def difference(got: Tensor, expected: Tensor, roundings: int, *, equal_nan: bool = False) -> float:
    """The largest absolute difference of two tensors, or 0.0 if they are equal up to rounding.

    Args:
        got: the values to test.
        expected: the right values.
        roundings: how many roundings of the largest finite value of `expected` are allowed, `SUMS` or `LAYERS`.
        equal_nan: NaN at the same places is no difference.

    Returns:
        0.0 if the difference is not larger than the tolerance, else the largest absolute difference. inf if the shapes
        differ, if integers or bools differ, or if the difference has NaN or inf.
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
    """The largest absolute difference: exactly 0.0 only if all elements are equal; inf if it is NaN or inf."""
    if torch.equal(now, then):
        return 0.0
    change = (now - then).abs().max().item()
    return change if math.isfinite(change) else math.inf


def varied(values: Tensor, numbers: Tensor) -> Tensor:
    """Values for a trial: equal values, as in a new norm, would hide a wrong move.

    Every value is moved away from 0 by a number times 30 % of the value and 0.05 more: v + n (0.3 v + 0.05 sign(v)).
    Equal values get different ones, because the factor of n is never 0.

    Args:
        values: what a network has.
        numbers: of the same shape, all different, of the order of 1, from `hat.tracing.different`. A variance stays
            positive if the numbers are not negative.
    """
    sign = torch.where(values == 0, 1.0, values.sgn())
    return values + numbers.to(values) * (0.3 * values + 0.05 * sign)
