"""Check that single arguments have the right type and are in their range.

Every public function checks its arguments once, at the edge. Each error is one line: the name of the argument, what was
expected and what was got.
"""

from __future__ import annotations

import math
import os
import sys

from torch import Tensor


def check_whole(name: str, value: object, *, least: int | None = None) -> None:
    """Check a whole number.

    Raises:
        ValueError: `value` is not an int, or it is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: expected an int, got {got(value)}")
    if least is not None and value < least:
        raise ValueError(f"{name}: expected at least {least}, got {got(value)}")


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
        name: of the argument.
        value: of the argument.
        above: exclusive lower bound, or None.
        least: inclusive lower bound, or None.
        below: exclusive upper bound, or None.
        finite: whether infinity is refused.

    Raises:
        ValueError: `value` is not a number, is NaN, or is out of the bounds.
    """
    bounds = [f"{sign} {bound:g}" for sign, bound in ((">", above), (">=", least), ("<", below)) if bound is not None]
    expected = " and ".join([" ".join(["a finite number" if finite else "a number", *bounds[:1]]), *bounds[1:]])
    if not (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (abs(value) <= sys.float_info.max or (abs(value) == math.inf and not finite))  # a NaN is neither
        and (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
    ):
        raise ValueError(f"{name}: expected {expected}, got {got(value)}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check a choice.

    Raises:
        ValueError: `value` is not one of the choices.
    """
    if not (isinstance(value, str) and value in choices):
        raise ValueError(f"{name}: expected one of {choices}, got {got(value)}")


def check_switch(name: str, value: object) -> None:
    """Check a switch.

    Raises:
        ValueError: `value` is neither True nor False.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {got(value)}")


def check_type(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Check the class of an argument.

    Args:
        name: of the argument.
        value: of the argument.
        kind: the class, or several.
        expected: what the class is called in the message, for example `"a hat.HATModel"`.

    Raises:
        TypeError: `value` is of another class.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {expected}, got {got(value)}")


def check_path(name: str, value: object) -> None:
    """Check the path of a file or folder.

    Raises:
        TypeError: `value` is neither a str nor a path.
        ValueError: `value` is empty, or has a zero character.
    """
    check_type(name, value, (str, os.PathLike), "a path")
    text = os.fspath(value)  # type: ignore[call-overload]
    check_type(name, text, str, "a path of text")
    if not text or "\0" in text:
        raise ValueError(f"{name}: expected a path, got {got(text)}")


def got(value: object) -> str:
    """What a message says that an argument was: a short value itself, a tensor by its dtype and shape, or the class."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, shape {tuple(value.shape)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an int of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float, str)):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    return f"a value of type {type(value).__name__}"
