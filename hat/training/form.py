"""Check that a value read from a file has the form in which this library writes it."""

from __future__ import annotations

from typing import Any


def check_form(value: Any, form: Any, where: str) -> None:
    """Compare a nested value with a form.

    Args:
        value: dicts, lists and leaves, nested.
        form: a type, or a tuple of types of which a leaf must have one; `[form]` for a list of values of this form;
            `{key: form}` for a dict with at least these keys.
        where: the name of the value, for the message.

    Raises:
        ValueError: a value has another type, or a key is missing; the message names the place.
    """
    if isinstance(form, dict):
        _check_type(value, (dict,), where)
        for key, part in form.items():
            if key not in value:
                raise ValueError(f"{where}: expected an entry {key!r}, got {sorted(map(str, value))}"[:300])
            check_form(value[key], part, f"{where}: {key}")
    elif isinstance(form, list):
        _check_type(value, (list,), where)
        for index, part in enumerate(value):
            check_form(part, form[0], f"{where}[{index}]")
    else:
        _check_type(value, form if isinstance(form, tuple) else (form,), where)


def _check_type(value: Any, kinds: tuple[type, ...], where: str) -> None:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{where}: expected {expected}, got {type(value).__name__}")
