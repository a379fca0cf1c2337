"""Check that single options have the right type and are in their range."""

from __future__ import annotations

import math


def check_whole(name: str, value: object, *, least: int | None = None) -> None:
    """Check an integer.

    Raises:
        ValueError: `value` is not an int, or it is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: expected an int, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    finite: bool = True,
) -> None:
    """Check a number.

    Args:
        name: of the option.
        value: of the option.
        above: exclusive lower bound, or None.
        least: inclusive lower bound, or None.
        below: exclusive upper bound, or None.
        finite: whether infinity is refused.

    Raises:
        ValueError: `value` is not a number, is NaN, or is out of the bounds.
    """
    bounds = [f"{sign} {bound:g}" for sign, bound in ((">", above), (">=", least), ("<", below)) if bound is not None]
    expected = " and ".join([" ".join(["a finite number" if finite else "a number", *bounds[:1]]), *bounds[1:]])
    number = not isinstance(value, bool) and isinstance(value, (int, float)) and not math.isnan(value)
    if not (
        number
        and (math.isfinite(value) or not finite)  # type: ignore[arg-type]
        and (above is None or value > above)  # type: ignore[operator]
        and (least is None or value >= least)  # type: ignore[operator]
        and (below is None or value < below)  # type: ignore[operator]
    ):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check a choice.

    Raises:
        ValueError: `value` is not one of the choices.
    """
    if value not in choices:
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")


def check_switch(name: str, value: object) -> None:
    """Check a switch.

    Raises:
        ValueError: `value` is neither True nor False.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
