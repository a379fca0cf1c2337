"""Files that may come from anyone: regular files, and JSON."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from hat.arguments import got

MAX_JSON = 256 << 20
"""The largest JSON file that is read, in bytes. Parsed, it may take ten times as much memory."""


def check_regular(path: str | os.PathLike[str], expected: str) -> int:
    """Check that a path leads to a regular file. A pipe or a device would be read for ever.

    Args:
        path: of the file.
        expected: what the file should be, for the message.

    Returns:
        The number of bytes of the file.

    Raises:
        ValueError: there is no file, or no regular file; the message names the path.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else _reason(error)
        raise ValueError(f"{path}: expected {expected}, got {reason}") from None
    if not stat.S_ISREG(status.st_mode):
        kinds = {"a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
        kind = next((kind for kind, test in kinds.items() if test(status.st_mode)), "a device")
        raise ValueError(f"{path}: expected {expected} in a regular file, got {kind}")
    return status.st_size


def read_json(path: Path) -> Any:
    """The value in a JSON file. NaN and Infinity are numbers, as `json.dumps` writes them.

    Raises:
        ValueError: the file is missing, larger than `MAX_JSON`, no regular file or no JSON, or an object in it has a
            key twice; the message names the file.
    """
    if (size := check_regular(path, "JSON")) > MAX_JSON:
        raise ValueError(f"{path}: expected at most {MAX_JSON >> 20} MiB of JSON, got {size >> 20} MiB")
    try:
        return json.loads(path.read_bytes().decode(), object_pairs_hook=_different_keys)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON, got other text in line {error.lineno}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected JSON in UTF-8, got other bytes at position {error.start}") from None
    except RecursionError:
        raise ValueError(f"{path}: expected JSON, got lists or objects that are too deep") from None
    except OSError as error:
        raise ValueError(f"{path}: expected JSON, got {_reason(error)}") from None
    except ValueError as error:  # a key twice, or a number of more digits than Python reads
        reason = error.args[0] if isinstance(error, _TwiceError) else "a number of too many digits"
        raise ValueError(f"{path}: expected JSON, got {reason}") from None


class _TwiceError(ValueError):
    """A JSON object has a key twice."""


def _different_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _TwiceError(f"the key {got(twice)} twice")
    return values


def _reason(error: Exception) -> str:
    """A system error in words."""
    text = getattr(error, "strerror", None) or "a path that the system does not know"
    return f"an error of the system: {text}"
