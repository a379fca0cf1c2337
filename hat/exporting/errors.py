"""The error of an export."""

from __future__ import annotations


class ExportError(ValueError):
    """A network cannot be exported; the message names the place and the reason."""
