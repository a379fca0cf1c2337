"""Errors and warnings as one line for a terminal, which names options as the user types them."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import warnings
from collections.abc import Iterator

from hat.cli.options import option_names
from hat.network.verdict import ForgettingError
from hat.text import printable
from hat.untrusted.files import SYSTEM_ERRORS

_EXPECTED_ERRORS = (ValueError, OSError, ImportError, ArithmeticError, ForgettingError, Warning)
_SYSTEM_ERROR = re.compile(r"(?:\w+: )?\[Errno (\d+)\] [^:;\[]*?(?=$|[:;])")
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|Cannot allocate memory", re.IGNORECASE)
_LONGEST = 1000
_LONGEST_PATH = 300


def one_line(error: BaseException, arguments: argparse.Namespace) -> str:
    """An error in one line. For an unexpected error, the line also has the class and says how to see more."""
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        expected = "expected a network and batches that fit into the memory"
        return f"{expected}, got larger ones; try a smaller --hidden, --width, --batch-size or --limit"
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error, arguments)
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:_LONGEST]
    text = _with_option(as_typed(printable(_in_our_words(text)), arguments), arguments)
    if text and isinstance(error, _EXPECTED_ERRORS):
        return text
    return f"{type(error).__name__}: {text} (--traceback shows where in the code it was raised)"


def show(text: str) -> None:
    """Print the lines of a text that has names from a run, which another person may have made."""
    print("\n".join(map(printable, text.split("\n"))))


def as_typed(text: str, arguments: argparse.Namespace) -> str:
    """A message with options in place of the fields that they set, so `--lr-min` for `lr_min`.

    A word is a field if the message begins with it and a colon, or if it has an underscore.
    """
    names = option_names(arguments)
    head, colon, rest = text.partition(":")
    if colon and head in names:
        text = f"{names[head]}:{rest}"
    fields = "|".join(name for name in names if "_" in name)
    return re.sub(rf"(?<![\w/.\\-])({fields})(?![\w/\\-])", lambda match: names[match[0]], text) if fields else text


@contextlib.contextmanager
def warnings_in_one_line(arguments: argparse.Namespace) -> Iterator[None]:
    """Inside the `with` block, a warning on standard error is one line, and no line comes twice."""
    before, seen = warnings.formatwarning, set[str]()

    def format_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        text = as_typed(printable(" ".join(_in_our_words(str(message)).split())[:_LONGEST]), arguments)
        shown = "" if text in seen else f"hat {arguments.command}: warning: {text}\n"
        seen.add(text)
        return shown

    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = before


def _of_system(error: OSError, arguments: argparse.Namespace) -> str:
    """An error of the operating system: the option that named the path, the path, what was expected and got."""
    reason = (error.strerror or type(error).__name__).lower()
    expected, got = SYSTEM_ERRORS.get(error.errno or 0, ("a file or folder that can be used", reason))
    if isinstance(error.filename, (str, bytes)):
        path = printable(os.fsdecode(error.filename))[:_LONGEST_PATH]
    else:
        path = "a file or standard output"
    return _with_option(f"{path}: expected {expected}, got {got}", arguments)


def _with_option(text: str, arguments: argparse.Namespace) -> str:
    """A message that begins with a path, preceded by the option that named the path or a folder above it."""
    names = option_names(arguments)
    for name, value in vars(arguments).items():
        for path in value if isinstance(value, (list, tuple)) else [value]:
            if name in names and isinstance(path, (str, os.PathLike)) and _begins_with(text, os.fspath(path)):
                return f"{names[name]}: {text}"
    return text


def _begins_with(text: str, path: str) -> bool:
    paths = {path, os.path.abspath(os.path.expanduser(path))} - {"", "/", "."}
    return text.startswith(tuple(path + end for path in paths for end in (":", os.sep)))


def _in_our_words(text: str) -> str:
    """A message without the numbers and the wording of the operating system."""

    def words(match: re.Match[str]) -> str:
        return SYSTEM_ERRORS.get(int(match[1]), ("", "an error of the operating system"))[1]

    return _SYSTEM_ERROR.sub(words, text)
