"""The numbers that a user's function adds to the row of an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hat.arguments import check_type, got

LATER = ("task", "verified_drift", "verified_moved")
"""Names that a row gets from the trainer."""


def extra_numbers(returned: object, row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of `after_epoch` as plain ints and floats.

    Args:
        returned: what the function has returned: a mapping from names to numbers. A number is an int or a float, also
            inf or NaN, or a tensor or NumPy value with one such element. True and False are no numbers, because a mean
            would count them as 1 and 0.
        row: the row of the epoch, whose names are taken.

    Raises:
        TypeError: `returned` is no mapping, or a name is no text.
        ValueError: a name is taken, or a value is no number.
    """
    check_type("after_epoch", returned, Mapping, "a function that returns a mapping of numbers, {} for none")
    assert isinstance(returned, Mapping)
    return {_free(name, row): _number(name, value) for name, value in returned.items()}


def _free(name: object, row: Mapping[str, Any]) -> str:
    check_type("after_epoch", name, str, "names that are text")
    if name in row or name in LATER:
        raise ValueError(f"after_epoch: expected names that are not in the row of the epoch, got {got(name)}")
    return str(name)


def _number(name: object, value: object) -> float:
    plain = value
    if not isinstance(value, (int, float, str)) and hasattr(value, "item") and _elements(value) == 1:
        plain = value.item()
    if isinstance(plain, int) and not isinstance(plain, bool) and abs(plain) < 2**1000:
        return int(plain)
    if isinstance(plain, float):
        return float(plain)
    raise ValueError(f"after_epoch: expected a number as {got(name)}, got {got(value)}")


def _elements(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else math.prod(getattr(value, "shape", (0,)))
