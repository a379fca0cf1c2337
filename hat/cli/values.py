"""The kinds of values that options take. Each kind reads a word of the command line, or says what it expected."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hat.arguments import got

SYSTEM_ERRORS = {
    errno.ENOENT: ("a file or folder that exists", "none there"),
    errno.EEXIST: ("a folder", "a file"),
    errno.ENOTDIR: ("a folder", "a file"),
    errno.EISDIR: ("a file", "a folder"),
    errno.EACCES: ("a file or folder that this user may use", "no permission"),
    errno.EPERM: ("a file or folder that this user may use", "no permission"),
    errno.EROFS: ("a place to write to", "a disk that can only be read"),
    errno.ENAMETOOLONG: ("a path of a length that the system allows", "a path that is too long"),
    errno.ELOOP: ("a path without a circle of links", "a circle of links"),
    errno.ENOSPC: ("room on the disk", "a full disk"),
    errno.EDQUOT: ("room on the disk", "a disk on which this user may use no more"),
    errno.EMFILE: ("a file that can be opened", "too many open files"),
    errno.EIO: ("a disk that works", "an error of the disk"),
}
"""What was expected and what was got, by the number of an error of the operating system."""


@dataclass(frozen=True)
class Kind:
    """A kind of value; the argument `type` of `add_argument`.

    Args:
        expected: what a message calls the kind.
        read: turns a word into the value. A ValueError means that the word is no such value; its text says what else is
            expected, or is empty.
        metavar: stands for the value in the help.
    """

    expected: str
    read: Callable[[str], Any]
    metavar: str

    def __call__(self, word: str) -> Any:
        """The value.

        Raises:
            ArgumentTypeError: the word is no such value.
        """
        try:
            return self.read(word)
        except _Refused as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {self.expected}, got {got(word)}") from None


class _Refused(ValueError):
    """A whole message: what was expected, and what was got."""


def either(names: Sequence[str]) -> str:
    """The names as a choice: `a, b or c`."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def suggestion(word: str, names: Sequence[str]) -> str:
    """The ending of a message, if a word looks like a misspelled name; otherwise empty."""
    close = difflib.get_close_matches(word[:100], names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def choice(names: Sequence[str]) -> Kind:
    """One of these names."""

    def read(word: str) -> str:
        if word not in names:
            raise _Refused(f"expected {either(names)}, got {got(word)}{suggestion(word, names)}")
        return word

    return Kind(either(names), read, f"{{{','.join(names)}}}")


def _path(word: str) -> str:
    if not word:
        raise _Refused("expected a path, got ''")
    if any(unicodedata.category(letter) == "Cc" for letter in word):
        raise _Refused(f"expected a path without control characters, got {got(word)}")
    try:
        os.lstat(os.path.expanduser(word))
    except (FileNotFoundError, NotADirectoryError):
        pass  # the command says whether something must be there
    except OSError as error:
        expected, problem = SYSTEM_ERRORS.get(error.errno or 0, ("a path that can be used", "one that cannot be used"))
        raise _Refused(f"expected {expected}, got {problem}: {got(word)}") from None
    return word


def _folder(word: str) -> str:
    path = Path(_path(word)).expanduser()
    if not path.is_dir():
        raise _Refused(f"expected a folder that exists, got {'a file' if path.exists() else 'none there'}: {got(word)}")
    return word


def _target(word: str) -> Path:
    path = Path(_path(word))
    nearest = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    if not nearest.is_dir():
        raise _Refused(f"expected a folder to write to, got a file: {got(str(nearest))}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _Refused(f"expected a folder to write to, got no permission to write in {got(str(nearest))}")
    return path


WHOLE = Kind("a whole number", int, "N")
NUMBER = Kind("a number", float, "X")
NAME = Kind("a name", str, "NAME")
TASK = Kind("the number of a task", int, "T")
DATASET = Kind("a name or a path", _path, "NAME")
DATA = Kind("a folder that exists", _folder, "FOLDER")
RUN = Kind("the folder of a run", lambda word: Path(_path(word)), "RUN_DIR")
TARGET = Kind("a folder to write to", _target, "FOLDER")
