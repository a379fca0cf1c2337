"""The error of a network that cannot be converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LONGEST = 300
"""Longer messages of other libraries are cut."""


class ConversionError(ValueError):
    """A network cannot be converted.

    The message names the place in the network, the reason and, if there is one, a way around.
    """


def told(error: BaseException) -> str:
    """The class and message of an error, in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message if len(message) <= _LONGEST else message[:_LONGEST] + '...'}"


@contextmanager
def refused(message: Callable[[Exception], str]) -> Iterator[None]:
    """Turn an error inside the `with` block into a `ConversionError`. A `ConversionError` stays as it is.

    Args:
        message: makes the text of the `ConversionError` from the error.
    """
    try:
        yield
    except ConversionError:
        raise
    except Exception as error:
        raise ConversionError(message(error)) from error
