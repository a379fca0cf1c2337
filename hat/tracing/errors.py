"""The error of a network that cannot be converted."""

from __future__ import annotations

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
