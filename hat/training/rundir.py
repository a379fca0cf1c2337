"""The folder of a run: config, one line an epoch, the accuracy matrix, checkpoints, logits, plots."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hat import checkpoint
from hat.training.history import History


class RunDir:
    """Files of one run. Every write replaces a whole file, so that a kill leaves the old one or the new one.

    Args:
        path: the folder; made if it is not there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    @classmethod
    def existing(cls, path: Path, option: str = "run_dir") -> RunDir:
        """The folder of a run that was made before.

        Raises:
            ValueError: there is no such folder; names the option that asked for it.
        """
        if not path.is_dir():
            raise ValueError(f"{option}: expected the folder of a run, got {path}")
        return cls(path)

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    def clear(self) -> None:
        """Remove what an earlier run left here, and nothing else."""
        stale = ["config.json", "metrics.jsonl", "accuracy.csv", "result.json", "checkpoint.pt"]
        for file in [
            *(self.path / name for name in stale),
            *self.path.glob("logits/task-*.pt"),
            *self.plots.glob("*.png"),
        ]:
            file.unlink(missing_ok=True)

    def write_config(self, config: dict[str, Any]) -> None:
        self._write("config.json", json.dumps(config, indent=2) + "\n")

    def read_config(self) -> dict[str, Any]:
        """The config of the run.

        Raises:
            ValueError: there is none, or it is not JSON.
        """
        file = self.path / "config.json"
        try:
            config = json.loads(file.read_text())
        except FileNotFoundError:
            raise ValueError(f"{file}: expected the config of a run, found no such file") from None
        except ValueError:
            raise ValueError(f"{file}: expected JSON, found something else") from None
        if not isinstance(config, dict):
            raise ValueError(f"{file}: expected a JSON object, got {type(config).__name__}")
        return config

    def write_history(self, history: History) -> None:
        self._write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history.epochs))
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["after task", *history.names])
        for task, row in enumerate(history.accuracy):
            writer.writerow([history.names[task], *(f"{value:.6f}" for value in row)])
        self._write("accuracy.csv", table.getvalue())

    def read_result(self) -> dict[str, Any]:
        """What `write_result` wrote; empty for a run that has not ended."""
        file = self.path / "result.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def write_result(self, result: dict[str, Any]) -> None:
        self._write("result.json", json.dumps(result, indent=2) + "\n")

    def save(self, payload: dict[str, Any]) -> None:
        checkpoint.save(self.checkpoint, payload)

    def load(self) -> dict[str, Any]:
        return checkpoint.load(self.checkpoint)

    def save_logits(self, task: int, logits: Tensor) -> None:
        """Keep what a task answered on its test part when it was learned."""
        (self.path / "logits").mkdir(exist_ok=True)
        checkpoint.save(self._logits(task), {"logits": logits})

    def load_logits(self, task: int) -> Tensor:
        logits = checkpoint.load(self._logits(task))["logits"]
        assert isinstance(logits, torch.Tensor)
        return logits

    def _logits(self, task: int) -> Path:
        return self.path / "logits" / f"task-{task:04d}.pt"

    def _write(self, name: str, text: str) -> None:
        with checkpoint.replacing(self.path / name) as file:
            file.write(text.encode())
