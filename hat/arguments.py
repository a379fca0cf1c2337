"""Check that single arguments have the right type and are in their range.

Every public function checks its arguments once, at the edge. Each error is one line: the name of the argument, what was
expected and what was got.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from torch import Tensor, nn

from hat_kernels.check import check_choice, check_number, check_switches, check_whole, got

__all__ = [
    "check_arguments",
    "check_choice",
    "check_number",
    "check_path",
    "check_switch",
    "check_switches",
    "check_type",
    "check_whole",
    "got",
]


def check_arguments(function: Callable[..., Any], values: Mapping[str, object]) -> None:
    """Check the types of arguments of a function against its annotations; the first line of a public function.

    An `int` is a whole number that 64 bits hold, a `float` is a number and not NaN, and neither is True or False. A
    `list` may be a tuple, too. Elements are checked: every one of a `Sequence[int]`, every key and value of a
    `Mapping[str, float]`.

    Args:
        function: the function, or a class for the arguments of its constructor.
        values: the arguments by name, for example `locals()`.

    Raises:
        TypeError: an argument is of another class.
        ValueError: an argument that is annotated as a number, a text or a switch is something else.
    """
    for name, kind in _kinds(function).items():
        if name in values and not _fits(values[name], kind):
            plain = all(get_origin(part) is None and part in _PLAIN for part in _alternatives(kind))
            error = ValueError if plain else TypeError
            shown = got(values[name]).removeprefix("a value of type ")
            raise error(f"{name}: expected {_described(kind)}, got {shown}")


def check_switch(name: str, value: object) -> None:
    """Check a switch.

    Raises:
        ValueError: `value` is neither True nor False.
    """
    check_switches(**{name: value})


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


_PLAIN = {int: "an int", float: "a number", str: "a string", bool: "True or False", type(None): "None"}
_MANY = {int: "ints", float: "numbers", str: "strings", bool: "switches", Tensor: "tensors"}


@functools.cache
def _kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """What the arguments of a function may be. An annotation that only a type checker can read is left out."""
    kinds: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        one = parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if one and parameter.annotation is not inspect.Parameter.empty:
            kind = parameter.annotation
            try:
                kinds[name] = eval(kind, vars(sys.modules[function.__module__])) if isinstance(kind, str) else kind
            except NameError:
                continue
    return kinds


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The kinds of a union; otherwise the kind itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of a kind, as `check_arguments` understands it."""
    whole, parts = get_origin(kind) or kind, get_args(kind)
    if len(alternatives := _alternatives(kind)) > 1:
        return any(_fits(value, part) for part in alternatives)
    if whole is Literal:
        return isinstance(value, str) and value in parts
    if whole is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value).bit_length() < 64
    if whole is float:
        fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return fits and value == value and not (isinstance(value, int) and value.bit_length() > 1000)
    if whole is None:
        return value is None
    if not isinstance(whole, type) or whole is Any:
        return True
    whole = Sequence if whole is list else whole
    if not isinstance(value, whole) or (isinstance(value, str | bytes) and issubclass(whole, Sequence)):
        return isinstance(value, str) and whole is str
    if issubclass(whole, tuple) and parts and parts[-1] is not ...:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and parts:
        return all(_fits(element, parts[0]) for element in value)
    if isinstance(value, Mapping) and parts:
        return all(_fits(key, parts[0]) and _fits(element, parts[1]) for key, element in value.items())
    return True


def _described(kind: Any) -> str:
    """A kind in the words of a message, for example "an int or a sequence of strings"."""
    whole, parts = get_origin(kind) or kind, get_args(kind)
    if len(alternatives := _alternatives(kind)) > 1:
        return " or ".join(map(_described, alternatives))
    if whole is Literal:
        return " or ".join(map(repr, parts))
    if kind is None or whole in _PLAIN:
        return _PLAIN[type(None) if kind is None else whole]
    if whole is Tensor:
        return "a tensor"
    name = getattr(whole, "__name__", str(whole))
    if not issubclass(whole, Sequence | Mapping):
        house = "hat." if hasattr(sys.modules.get("hat"), name) else "torch.nn." if hasattr(nn, name) else ""
        return "a function" if whole is Callable else f"a {house}{name}"
    elements = " and ".join(_MANY.get(part, f"{getattr(part, '__name__', part)}s") for part in parts if part is not ...)
    return f"a {name.lower()}{f' of {elements}' if elements else ''}"
