"""The kinds of values that options take. Each kind reads a word of the command line, or says what it expected."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hat.arguments import got


@dataclass(frozen=True)
class Kind:
    """A kind of value; the argument `type` of `add_argument`.

    Args:
        expected: what a message calls the kind.
        read: turns a word into the value, or raises a ValueError.
        metavar: stands for the value in the help.
        names: all values of this kind, if they can be listed.
    """

    expected: str
    read: Callable[[str], Any]
    metavar: str
    names: Sequence[str] = ()

    def __call__(self, word: str) -> Any:
        """The value.

        Raises:
            ArgumentTypeError: the word is no such value.
        """
        try:
            return self.read(word)
        except ValueError:
            advice = suggestion(word, self.names)
            raise argparse.ArgumentTypeError(f"expected {self.expected}, got {got(word)}{advice}") from None


def either(names: Sequence[str]) -> str:
    """The names as a choice: `a, b or c`."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def suggestion(word: str, names: Sequence[str]) -> str:
    """The ending of a message, if a word looks like a misspelled name; otherwise empty. Leading dashes do not count."""
    bare = {name.lstrip("-"): name for name in names}
    close = difflib.get_close_matches(word.lstrip("-")[:100], bare, n=1)
    return f"; did you mean {bare[close[0]]}?" if close else ""


def choice(names: Sequence[str]) -> Kind:
    """One of these names."""

    return Kind(either(names), lambda word: names[names.index(word)], f"{{{','.join(names)}}}", names)


def _whole(word: str) -> int:
    """The number; of very many digits only the first ones, because such a number is refused anyway."""
    return int(word[:1000])


WHOLE = Kind("a whole number", _whole, "N")
NUMBER = Kind("a number", float, "X")
NAME = Kind("a name", str, "NAME")
TASK = Kind("the number of a task", _whole, "T")
DATASET = Kind("a name or a path", str, "NAME")
DATA = Kind("a folder that exists", str, "FOLDER")
RUN = Kind("the folder of a run", str, "RUN_DIR")
TARGET = Kind("a folder to write to", str, "FOLDER")
