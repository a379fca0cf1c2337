"""The files of a folder that this library has written. It replaces and removes these files only.

Their names are in a list in the folder, one name a line; a name is listed before the file is written. In a folder
without a list, as an earlier version left it, a file counts if it holds what this library writes. The same holds if the
run is gone and the list is left, as after `rm run/*`, and for a file behind a link: somebody else may have put it
there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from hat import checkpoint

LIST = ".hat-files"
_RUNS = ("checkpoint.pt", "compression.json")  # without one of these, a folder holds no run
_HEAD = "hat has written these files, and may replace them:"
_NAME = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")  # a list from elsewhere must not name files outside of the folder
_EARLIER = re.compile(r"(accuracy_matrix|accuracy_over_time|capacity|overlap|units|channels-.*|compression)\.png")
_PICTURE = b"Creator\0hat"
"""Stands in every picture that `hat.plots.save` writes."""


class Written:
    """The files in a folder that this library has written.

    Args:
        folder: the folder, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: set[str] = set()
        self._earlier: set[str] | None = None

    def has(self, name: str) -> bool:
        """Whether there is a file of this name that this library has written."""
        path = self.folder / name
        return path.is_file() and (_holds_ours(self.folder, name) if self._linked(name) else name in self.names())

    def names(self) -> set[str]:
        """The names of the files that were written here; some may be gone."""
        listed = self._of_run()
        if listed is not None:
            return listed
        if self._earlier is None:
            self._earlier = {name for name in _files(self.folder) if _holds_ours(self.folder, name)}
        return self._earlier

    def check(self, names: Iterable[str], *, links: bool) -> None:
        """Refuse names of files that this library has not written.

        Args:
            names: of files that will be written.
            links: whether a link to a file of this library is allowed.

        Raises:
            ValueError: a file of this name is somebody else's, or is a folder or a link; the message names it.
        """
        for name in (LIST, *names):
            path, above = self.folder / name, (self.folder / name).parent
            if not links and self._linked(name):
                place = path if path.is_symlink() else above
                raise ValueError(
                    f"{place}: expected a place inside of the folder of the run, got a link; remove the link"
                )
            if above.exists() and not above.is_dir():
                raise ValueError(f"{above}: expected a folder, got a file; move it away, or name another folder")
            ours = self._listed() is not None if name == LIST else self.has(name)
            if os.path.lexists(path) and not ours:
                raise ValueError(
                    f"{path}: expected no file or a file that hat has written, got another; move it away, or name "
                    "another folder"
                )

    def add(self, names: Collection[str]) -> None:
        """List names before their files are written.

        Raises:
            ValueError: as `check`.
        """
        new = sorted(set(names) - self._known)
        if not new:
            return
        self.check(new, links=True)
        if self._of_run() is None:
            self.begin({*self.names(), *self._known, *new})
        else:
            with open(self.folder / LIST, "a", encoding="utf-8") as file:  # others may append at the same time
                file.write("".join(f"\n{name}\n" for name in new))
        self._known |= set(new)

    def begin(self, names: Collection[str]) -> None:
        """Begin the list anew."""
        with checkpoint.replacing(self.folder / LIST) as file:
            file.write("\n".join([_HEAD, *sorted(names), ""]).encode())
        self._known = set(names)

    def remove(self, *, but: str) -> None:
        """Remove every file that was written here except one, and begin the list anew. What is behind a link stays."""
        for name in self.names() - {but}:
            if not self._linked(name):
                (self.folder / name).unlink(missing_ok=True)
        self.begin({but})

    def _of_run(self) -> set[str] | None:
        """The names in the list; None if the folder has no list, or no run that the list could be of."""
        return self._listed() if any((self.folder / name).exists() for name in _RUNS) else None

    def _listed(self) -> set[str] | None:
        """The names in the list; None if the folder has no list."""
        try:
            head, *names = (self.folder / LIST).read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError):
            return None
        return {name for name in names if _NAME.fullmatch(name)} if head == _HEAD else None

    def _linked(self, name: str) -> bool:
        """Whether a file is behind a link inside of the folder."""
        path = self.folder / name
        return path.is_symlink() or (path.parent != self.folder and path.parent.is_symlink())


def _files(folder: Path) -> list[str]:
    """The names of the files in a folder of an earlier version that may be ours."""
    found = [path for pattern in ("*", "logits/*.pt", "plots/*.png") for path in folder.glob(pattern) if path.is_file()]
    return [path.relative_to(folder).as_posix() for path in found]


def _holds_ours(folder: Path, name: str) -> bool:
    """Whether a file holds what this library writes under this name."""
    recognise = next((test for pattern, test in _CONTENTS if re.fullmatch(pattern, name)), None)
    try:
        return recognise is not None and recognise(folder / name)
    except (OSError, ValueError, RecursionError):
        return False


def _json(*keys: str) -> Callable[[Path], bool]:
    """A test for a file of JSON: the first line, or all of the file, is an object with these keys."""

    def test(path: Path) -> bool:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text.partition("\n")[0] if path.suffix == ".jsonl" else text)
        return isinstance(content, dict) and set(keys) <= content.keys()

    return test


def _stored(*keys: str) -> Callable[[Path], bool]:
    return lambda path: set(keys) <= checkpoint.load(path).keys()


def _is_run(path: Path) -> bool:
    """A checkpoint of a run, or a damaged one beside the epochs of a run."""
    folder = path.parent
    return _holds_ours(folder, "metrics.jsonl") or _stored("identity", "model", "history")(path)


def _is_picture(path: Path) -> bool:
    """A picture with our mark, or with a name of ours beside a run of an earlier version, which set no mark."""
    with open(path, "rb") as file:
        marked = _PICTURE in file.read(4096)
    folder = path.parent if path.name == "compression.png" else path.parent.parent
    beside = "compression.json" if path.name == "compression.png" else "checkpoint.pt"
    inside = not path.is_symlink() and not path.parent.is_symlink()
    earlier = inside and _EARLIER.fullmatch(path.name) and not (folder / LIST).exists()
    return marked or bool(earlier and _holds_ours(folder, beside))


def _is_accuracy(path: Path) -> bool:
    with open(path, encoding="utf-8") as file:
        return file.readline(100).startswith("after task")


_CONTENTS: list[tuple[str, Callable[[Path], bool]]] = [
    ("config.json", _json("stream", "network", "gates", "training")),
    ("metrics.jsonl", _json("task", "epoch", "val_loss")),
    ("result.json", _json("learned", "now", "references", "random")),
    ("compression.json", _json("config", "datasets")),
    ("accuracy.csv", _is_accuracy),
    ("checkpoint.pt", _is_run),
    (r"logits/task-\d{4,}\.pt", _stored("logits")),
    (r"plots/[^/]*\.png|compression\.png", _is_picture),
]
"""Patterns of names, and tests of what the files hold."""
