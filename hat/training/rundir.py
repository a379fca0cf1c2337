"""The folder of a run: config, one line an epoch, the accuracy matrix, checkpoints, logits, plots."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from hat import checkpoint
from hat.training.fit import check_fit
from hat.training.form import check_form
from hat.training.history import History
from hat.training.identity import IDENTITY_FORM
from hat.training.random_state import RANDOM_FORM
from hat.untrusted import read_json

_CONFIG, _CHECKPOINT = "config.json", "checkpoint.pt"
_METRICS, _ACCURACY, _RESULT = "metrics.jsonl", "accuracy.csv", "result.json"
_SAVED_FORM = {"model": dict, "seconds": float, "identity": IDENTITY_FORM, "random": RANDOM_FORM}


class RunDir:
    """The files of one run. Every write replaces a whole file, so a killed process leaves the old or the new file.

    Args:
        path: the folder; `prepare` makes it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def existing(cls, path: Path, option: str = "run_dir") -> RunDir:
        """The folder of an earlier run.

        Raises:
            ValueError: there is no such folder; the message names the option that gave the path.
        """
        if not path.is_dir():
            raise ValueError(f"{option}: expected the folder of a run, got {path}")
        return cls(path)

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

    def check_free(self) -> None:
        """Refuse a folder that holds a run.

        Raises:
            ValueError: the folder holds at least one epoch or the results of a run.
        """
        if self.checkpoint.exists():
            raise ValueError(
                f"{self.path}: expected a folder without a run, got a run that can be resumed or overwritten"
            )
        if any((self.path / name).exists() for name in (_METRICS, _RESULT)):
            raise ValueError(f"{self.path}: expected a folder without a run, got the results of one")

    def prepare(self) -> None:
        """Make the folder, and check at once (rather than after the first epoch) that files can be written there.

        Raises:
            ValueError: the folder cannot be made or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise ValueError(f"run_dir: expected a folder to write to, got {self.path} ({error.strerror})") from error

    def begin(self, payload: dict[str, Any], config: dict[str, Any] | None) -> None:
        """Save the first checkpoint of a run, and then remove the files of an earlier run. Other files stay.

        Args:
            payload: as for `save`.
            config: the content of config.json; None writes no such file.
        """
        self.save(payload)
        stale = [*self.path.glob("logits/task-*.pt"), *self.plots.glob("*.png")]
        for file in [*(self.path / name for name in (_METRICS, _ACCURACY, _RESULT)), *stale]:
            file.unlink(missing_ok=True)
        if config is None:
            self.config.unlink(missing_ok=True)
        else:
            self.write_config(config)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the options of the run."""
        self._write(_CONFIG, json.dumps(config, indent=2) + "\n")

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
        self._write(_METRICS, "".join(json.dumps(row) + "\n" for row in history.epochs))
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["after task", *history.names])
        for task, row in enumerate(history.accuracy):
            writer.writerow([history.names[task], *(f"{value:.6f}" for value in row)])
        self._write(_ACCURACY, table.getvalue())

    def read_result(self) -> dict[str, Any]:
        """The figures that `write_result` wrote; empty for a run that has not ended.

        Raises:
            ValueError: the file is no JSON object.
        """
        return self._read_json(self.result) if self.result.exists() else {}

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the figures of the run."""
        self._write(_RESULT, json.dumps(result, indent=2) + "\n")

    def save(self, payload: dict[str, Any]) -> None:
        """Replace the checkpoint.

        Raises:
            CheckpointError: the checkpoint could not be written.
        """
        checkpoint.save(self.checkpoint, payload)

    def load(self) -> dict[str, Any]:
        """The checkpoint.

        Raises:
            ValueError: there is no checkpoint, it is damaged, or it is not the checkpoint of a run.
        """
        if not self.checkpoint.exists():
            raise ValueError(f"{self.checkpoint}: expected the checkpoint of a run, got no such file")
        saved = checkpoint.load(self.checkpoint)
        check_form(saved, {**_SAVED_FORM, "fit": (dict, type(None))}, str(self.checkpoint))
        if saved["fit"] is not None:
            check_fit(saved["fit"], saved["model"], f"{self.checkpoint}: fit")
        history = History.read(saved.get("history"), f"{self.checkpoint}: history")
        return {**saved, "history": vars(history)}

    def save_logits(self, task: int, logits: Tensor) -> None:
        """Write the logits of a task on its test part."""
        (self.path / "logits").mkdir(exist_ok=True)
        checkpoint.save(self._logits(task), {"logits": logits})

    def load_logits(self, task: int, *, images: int, classes: int) -> Tensor:
        """The logits [images, classes] that `save_logits` wrote.

        Raises:
            ValueError: there are no logits, or they have another shape.
        """
        file = self._logits(task)
        saved = checkpoint.load(file)
        check_form(saved, {"logits": Tensor}, str(file))
        logits: Tensor = saved["logits"]
        if logits.shape != (images, classes):
            raise ValueError(f"{file}: expected logits of {(images, classes)}, got {tuple(logits.shape)}")
        return logits

    def _logits(self, task: int) -> Path:
        return self.path / "logits" / f"task-{task:04d}.pt"

    def _read_json(self, file: Path) -> dict[str, Any]:
        content = read_json(file)
        if not isinstance(content, dict):
            raise ValueError(f"{file}: expected a JSON object, got {type(content).__name__}")
        return content

    def _write(self, name: str, text: str) -> None:
        with checkpoint.replacing(self.path / name) as file:
            file.write(text.encode())
