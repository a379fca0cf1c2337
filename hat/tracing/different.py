"""Values for a trial that are all different, without a random draw.

A trial runs a network on made-up values, and a wrong change of the network must show in the answer. Equal values would
hide some changes, and values from a random generator would hide some with some probability. The values here come from
a formula: the triangular numbers i (i + 1) / 2 of i = 0, 1, 2, ... take every value modulo 2^24 exactly once, and so do
their products with an odd number. No two of the first 2^24 values are equal, and float32 holds each of them exactly.
The odd number is next to 2^24 divided by the golden ratio, so neighbours are far apart: 0, 0.618, 0.854, 0.708, ...
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

_BITS = 24  # of a float32
_GOLDEN = (math.sqrt(5) - 1) / 2


class AllDifferent:
    """A sequence of different numbers in [0, 1), for all tensors of one trial.

    No number of a tensor, and no number of two tensors, comes twice while a trial takes 2^24 numbers or fewer. A tensor
    with more elements gets different numbers too, in float64.
    """

    def __init__(self) -> None:
        self._taken = 0

    def take(self, shape: Iterable[int]) -> Tensor:
        """The next numbers of the sequence: [*shape] on the CPU, in [0, 1); float32 if float32 tells them apart."""
        shape = torch.Size(shape)
        first, self._taken = self._taken, self._taken + shape.numel()
        bits = max(_BITS, (shape.numel() - 1).bit_length())
        steps = torch.arange(first, self._taken)
        triangular = (steps + 1).mul_(steps).bitwise_right_shift_(1)
        places = triangular.mul_(int(2**bits * _GOLDEN) | 1).bitwise_and_(2**bits - 1)  # overflow keeps the low bits
        dtype = torch.float32 if bits == _BITS else torch.float64
        return places.to(dtype).div_(2**bits).view(shape)

    def around_zero(self, shape: Iterable[int]) -> Tensor:
        """The next numbers, stretched to a mean of 0 and a deviation of 1: [*shape], between -1.73 and 1.73."""
        return self.take(shape).sub_(0.5).mul_(math.sqrt(12))
