"""What a kind of hostile file is: how it is made, who reads it, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CAP_GIB = 1 / 32
"""The cap on unpacked bytes while the files are read. It is small, so that the bombs are small, too."""
CAP = int(CAP_GIB * 2**30)
BOMB = 3 * CAP
"""Bytes of a bomb, unpacked."""

COMMANDS = ("evaluate", "report", "resume", "halfway", "compress")
"""The readers that are commands on the folder of a run."""

REFUSED, READ, EITHER = "refused", "read", "either"


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: `format/what`.
        reader: a key of `readers.READERS`.
        build: writes the file, and whatever lies beside it, into an empty folder, or into a copy of a whole run.
        path: what is read, relative to that folder.
        outcome: REFUSED; READ; or EITHER, for files that do no harm when they are read.
    """

    name: str
    reader: str
    build: Callable[[Path], object]
    path: str = "."
    outcome: str = REFUSED


def of_bytes(
    format_name: str, reader: str, path: str, contents: Mapping[str, bytes], outcome: str = REFUSED
) -> Iterator[Kind]:
    """One kind for each content of a file at `path`."""
    for name, content in contents.items():
        yield Kind(
            f"{format_name}/{name}", reader, lambda at, content=content: write(at / path, content), path, outcome
        )


def write(path: Path, content: bytes) -> None:
    """Write a file, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
