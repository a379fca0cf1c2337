"""Upper bounds of the norms of weights, so that the weights need not be measured after every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

import hat_kernels
from hat.optim.clip import keep_finite_
from hat_kernels import Lock
from hat_kernels.limits import LARGEST


class Grown(NamedTuple):
    """A part of a parameter after a step, if finished tasks read the part.

    Attributes:
        parameter: the whole parameter.
        number: of the part among the parts of the parameter.
        value: the part.
        lock: of the part.
        bound: an upper bound of the norm of the part; None if no bound is known.
    """

    parameter: Tensor
    number: int
    value: Tensor
    lock: Lock | None
    bound: float | None


class Bounds:
    """Upper bounds of the norms of parts of parameters, carried from step to step.

    Finished tasks multiply a weight that they do not use with an input of exactly 0, but 0 * inf is NaN. So every
    weight must stay finite, and in the range of float16, to which autocast may cast it. The norm of a part bounds every
    element. It grows by no more than the norm of the update. This class works on a CPU, where numbers can be read
    without waiting.
    """

    def __init__(self) -> None:
        self._versions_and_bounds: dict[tuple[Tensor, int], tuple[int, float]] = {}

    def forget(self) -> None:
        """Drop all bounds, because the parts have changed."""
        self._versions_and_bounds.clear()

    def of(self, parameter: Tensor, number: int) -> float | None:
        """The bound of a part. None if there is none, or if other code has changed the parameter since."""
        version, bound = self._versions_and_bounds.get((parameter, number), (-1, 0.0))
        return bound if version == parameter._version else None

    def keep(self, parts: Sequence[Grown]) -> None:
        """Record the bounds of parts. A part that may be out of range is measured, and brought back if need be."""
        bounds = []
        for part in parts:
            bound = part.bound
            if bound is None or not bound <= LARGEST:
                keep_finite_([(part.value, part.lock)])
                bound = hat_kernels.gradient_norm([part.value], [None]).item()
            bounds.append(bound)
        for part, bound in zip(parts, bounds, strict=True):
            self._versions_and_bounds[part.parameter, part.number] = part.parameter._version, bound
