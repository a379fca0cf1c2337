"""The folder of a run: config, one line an epoch, the accuracy matrix, checkpoints, logits, plots."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor

from hat import checkpoint
from hat.arguments import check_path, check_type
from hat.ownership import check_not_owned, keep, owned
from hat.training.fit import check_fit
from hat.training.form import check_form
from hat.training.history import History
from hat.training.identity import IDENTITY_FORM
from hat.training.random_state import RANDOM_FORM
from hat.training.written import Written
from hat.untrusted.files import in_words, read_json

_CONFIG, _CHECKPOINT = "config.json", "checkpoint.pt"
_METRICS, _ACCURACY, _RESULT = "metrics.jsonl", "accuracy.csv", "result.json"
_SAVED_FORM = {"model": dict, "seconds": float, "identity": IDENTITY_FORM, "random": RANDOM_FORM}


class RunDir:
    """The files of one run. Every write replaces a whole file, so a killed process leaves the old or the new file.

    Only files that this library has written are replaced or removed.

    Args:
        path: the folder; `owned` makes it.

    Raises:
        TypeError: `path` is no path.
        ValueError: `path` is empty.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_path("run_dir", path)
        self.path = Path(path)
        self._written = Written(self.path)
        self._lock: Path | None = None
        self._owner = 0  # the thread that owns the folder

    @property
    def config(self) -> Path:
        return self.path / _CONFIG

    @property
    def checkpoint(self) -> Path:
        return self.path / _CHECKPOINT

    @property
    def result(self) -> Path:
        return self.path / _RESULT

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Make the folder, and own it inside the block: no other run can write to it. Blocks of one thread nest.

        Raises:
            ValueError: the folder cannot be made or written to, or another run owns it; see `hat.ownership.owned`.
        """
        if self._lock is not None and self._owner == threading.get_ident():
            yield
            return
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(owned(self.path))
            except OSError as error:
                raise ValueError(f"{self.path}: expected a folder to write to, got {in_words(error)}") from error
            self._lock, self._owner, self._written = lock, threading.get_ident(), Written(self.path)
            stack.callback(setattr, self, "_lock", None)
            yield

    def check_not_owned(self) -> None:
        """Refuse a folder that another run is writing to, before long work.

        Raises:
            ValueError: as `owned`.
        """
        check_not_owned(self.path)

    def check_free(self) -> None:
        """Refuse a folder that holds a run.

        Raises:
            ValueError: the folder holds at least one epoch or the results of a run.
        """
        if self._written.has(_CHECKPOINT):
            raise ValueError(
                f"{self.path}: expected a folder without a run, got a run that can be resumed or overwritten"
            )
        if any((self.path / name).exists() for name in (_METRICS, _RESULT)):
            raise ValueError(f"{self.path}: expected a folder without a run, got the results of one")

    def check_names(self, tasks: int, more: Iterable[str] = ()) -> None:
        """Refuse a folder in which a new run would replace a file that this library has not written.

        Args:
            tasks: of the run.
            more: the names of more files that the run will write.

        Raises:
            ValueError: a file is somebody else's, or is behind a link; the message names it.
        """
        logits = [self._logits(task) for task in range(tasks)]
        self._written.check([_CHECKPOINT, _METRICS, _ACCURACY, *logits, *more], links=False)

    def check_saved(self) -> None:
        """Refuse a folder without a checkpoint.

        Raises:
            ValueError: there is no checkpoint.
        """
        if not self.checkpoint.exists():
            raise ValueError(f"{self.checkpoint}: expected the checkpoint of a run, got no such file")

    def claim(self, name: str) -> Path:
        """The path of a file that will be written: the file is listed, and its folder is made.

        Args:
            name: of the file, `name` or `folder/name`.

        Raises:
            ValueError: there is a file of this name that this library has not written.
        """
        self._written.add([name])
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        return path

    def begin(self, payload: dict[str, Any], config: dict[str, Any] | None) -> None:
        """Save the first checkpoint of a run, and then remove the files of an earlier run. Other files stay.

        Args:
            payload: as for `save`.
            config: the content of config.json; None writes no such file.
        """
        self.save(payload)
        self._written.remove(but=_CHECKPOINT)
        if config is not None:
            self.write_config(config)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the options of the run."""
        self.write(_CONFIG, json.dumps(config, indent=2) + "\n")

    def read_config(self) -> dict[str, Any]:
        """The config of the run.

        Raises:
            ValueError: there is no config, or it is no JSON object.
        """
        if not self.config.exists():
            raise ValueError(f"{self.config}: expected the config of a run, got no such file")
        return self._read_json(self.config)

    def write_history(self, history: History) -> None:
        """Write metrics.jsonl and accuracy.csv."""
        self.write(_METRICS, "".join(json.dumps(row) + "\n" for row in history.epochs))
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["after task", *history.names])
        for task, row in enumerate(history.accuracy):
            writer.writerow([history.names[task], *(f"{value:.6f}" for value in row)])
        self.write(_ACCURACY, table.getvalue())

    def read_result(self) -> dict[str, Any]:
        """The figures that `write_result` wrote; empty for a run that has not ended.

        Raises:
            ValueError: the file is no JSON object.
        """
        return self._read_json(self.result) if self.result.exists() else {}

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the figures of the run."""
        self.write(_RESULT, json.dumps(result, indent=2) + "\n")

    def save(self, payload: dict[str, Any]) -> None:
        """Replace the checkpoint.

        Raises:
            CheckpointError: the checkpoint could not be written.
            ValueError: another process has taken over the folder.
        """
        if self._lock is not None:
            keep(self._lock)
        checkpoint.save(self.claim(_CHECKPOINT), payload)

    def load(self) -> dict[str, Any]:
        """The checkpoint.

        Raises:
            ValueError: there is no checkpoint, it is damaged, or it is not the checkpoint of a run.
        """
        self.check_saved()
        saved = checkpoint.load(self.checkpoint)
        check_form(saved, {**_SAVED_FORM, "fit": (dict, type(None))}, str(self.checkpoint))
        if saved["fit"] is not None:
            check_fit(saved["fit"], saved["model"], f"{self.checkpoint}: fit")
        history = History.read(saved.get("history"), f"{self.checkpoint}: history")
        return {**saved, "history": vars(history)}

    def save_logits(self, task: int, logits: Tensor) -> None:
        """Write the logits of a task on its test part."""
        checkpoint.save(self.claim(self._logits(task)), {"logits": logits})

    def load_logits(self, task: int, *, images: int, classes: int) -> Tensor:
        """The logits [images, classes] that `save_logits` wrote.

        Raises:
            ValueError: there are no logits, or they have another shape.
        """
        file = self.path / self._logits(task)
        saved = checkpoint.load(file)
        check_form(saved, {"logits": Tensor}, str(file))
        logits: Tensor = saved["logits"]
        if logits.shape != (images, classes):
            raise ValueError(f"{file}: expected logits of {(images, classes)}, got {tuple(logits.shape)}")
        return logits

    def write(self, name: str, text: str) -> None:
        """Replace a file of the run.

        Raises:
            ValueError: there is a file of this name that this library has not written.
        """
        with checkpoint.replacing(self.claim(name)) as file:
            file.write(text.encode())

    def _logits(self, task: int) -> str:
        return f"logits/task-{task:04d}.pt"

    def _read_json(self, file: Path) -> dict[str, Any]:
        content = read_json(file)
        if not isinstance(content, dict):
            raise ValueError(f"{file}: expected a JSON object, got {type(content).__name__}")
        return content


def check_description(description: object) -> None:
    """Check what is to become config.json.

    Raises:
        TypeError: it is neither None nor a dict that JSON can hold.
    """
    check_type("description", description, (dict, NoneType), "a dict or None")
    try:
        json.dumps(description)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"description: expected values that JSON can hold, got one that it cannot: {error}") from None
