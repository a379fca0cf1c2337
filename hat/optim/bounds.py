"""How large weights may have become, so that they need not be measured after every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

import hat_kernels
from hat.optim.clip import keep_finite_
from hat_kernels import Lock
from hat_kernels.limits import LARGEST


class Grown(NamedTuple):
    """A part of a parameter that finished tasks meet, after a step.

    Attributes:
        parameter: all of it.
        number: of the part.
        value: the part.
        lock: of the part.
        bound: a number no less than its norm; None where none is known.
    """

    parameter: Tensor
    number: int
    value: Tensor
    lock: Lock | None
    bound: float | None


class Bounds:
    """Numbers no less than the norms of parts of parameters, from step to step.

    Finished tasks meet a weight that they do not use with an input of exactly 0, but 0 * inf is NaN: so a weight must
    stay finite, and within what autocast can cast to float16. A norm bounds every element, and grows by no more than
    the norm of a step. On a CPU, where it is free to look.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Tensor, int], tuple[int, float]] = {}

    def forget(self) -> None:
        """The parts are others now."""
        self._known.clear()

    def of(self, parameter: Tensor, number: int) -> float | None:
        """What is known of a part, unless somebody else has changed the parameter since."""
        version, bound = self._known.get((parameter, number), (-1, 0.0))
        return bound if version == parameter._version else None

    def keep(self, parts: Sequence[Grown]) -> None:
        """Measure what may be out of bounds, bring it back, and remember."""
        found = []
        for part in parts:
            bound = part.bound
            if bound is None or not bound <= LARGEST:
                keep_finite_([(part.value, part.lock)])
                bound = hat_kernels.gradient_norm([part.value], [None]).item()
            found.append(bound)
        for part, bound in zip(parts, found, strict=True):
            self._known[part.parameter, part.number] = part.parameter._version, bound
