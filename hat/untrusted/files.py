"""Files that may come from anyone: regular files, JSON, and errors of the system in words."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from hat.arguments import got

MAX_JSON = 256 << 20
"""The largest JSON file that is read, in bytes. Parsed, it may take ten times as much memory."""


SYSTEM_ERRORS = {
    errno.ENOENT: ("a file or folder that exists", "none there"),
    errno.EEXIST: ("a folder", "a file"),
    errno.ENOTDIR: ("a folder", "a file"),
    errno.EISDIR: ("a file", "a folder"),
    errno.EACCES: ("a file or folder that this user may use", "no permission"),
    errno.EPERM: ("a file or folder that this user may use", "no permission"),
    errno.EROFS: ("a place to write to", "a disk that can only be read"),
    errno.ENAMETOOLONG: ("a shorter path", "a path that is too long"),
    errno.ELOOP: ("a path without a circle of links", "a circle of links"),
    errno.ENOSPC: ("room on the disk", "a full disk"),
    errno.EFBIG: ("a file of a size that the system allows", "a larger file"),
    errno.EDQUOT: ("room on the disk", "a disk on which this user may use no more"),
    errno.EMFILE: ("a file that can be opened", "too many open files"),
    errno.EIO: ("a disk that works", "an error of the disk"),
}
"""What was expected and what was got, by the number of an error of the operating system."""


def in_words(error: Exception) -> str:
    """What was got, in words, when the operating system refused a path."""
    return SYSTEM_ERRORS.get(getattr(error, "errno", None) or 0, ("", "a path that the system cannot use"))[1]


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
        reason = "no such file" if isinstance(error, FileNotFoundError) else in_words(error)
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
        raise ValueError(f"{path}: expected JSON, got {in_words(error)}") from None
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
