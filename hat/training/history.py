"""The history of a run: every epoch, the accuracy matrix, capacity and drift."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hat.text import printable
from hat.training.form import check_form

_FORM = {
    "epochs": [dict],
    "accuracy": [[float]],
    "capacity": [dict],
    "drift": [[float]],
    "names": [str],
    "growth": [{"task": int, "units": dict, "change": float}],
}
_NUMBERS = (str, int, float, bool, type(None))


@dataclass
class History:
    """The history of a run in plain lists and numbers, so that it can be saved without conversion.

    Attributes:
        epochs: one dict an epoch.
        accuracy: row t holds the test accuracy, in [0, 1], of tasks 0..t after task t; NaN for a forgotten task.
        capacity: row t holds the used share of every gate by name after task t.
        drift: row t holds the largest change of any logit of tasks 0..t since they were learned, or since the model
            last grew; NaN for a forgotten task.
        names: of the tasks.
        growth: one dict for each time that the model grew: `task`, the task before which it grew; `units`, how many
            units were added by the name of the gate; `change`, the largest change of any logit, which is rounding.
            From then on drift is measured from the changed logits.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    accuracy: list[list[float]] = field(default_factory=list)
    capacity: list[dict[str, float]] = field(default_factory=list)
    drift: list[list[float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    growth: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, saved: Any, where: str) -> History:
        """The history that `dataclasses.asdict` turned into a dict.

        Args:
            saved: the dict.
            where: the name of the dict, for the message.

        Raises:
            ValueError: `saved` is not such a dict.
        """
        check_form(saved, _FORM, where)
        history = cls(**{name: saved[name] for name in _FORM})
        tasks = len(history.names)
        for name in ("accuracy", "drift"):
            lengths = [len(row) for row in saved[name]]
            if lengths != list(range(1, tasks + 1)):
                raise ValueError(f"{where}: {name}: expected rows of 1 to {tasks} numbers, got {lengths}")
        if len(history.capacity) != tasks:
            raise ValueError(f"{where}: capacity: expected {tasks} rows, got {len(history.capacity)}")
        if not all(math.isnan(value) or 0 <= value <= 1 for row in history.accuracy for value in row):
            raise ValueError(f"{where}: accuracy: expected values from 0 to 1, or NaN for a forgotten task")
        for row in history.capacity:
            if not row or row.keys() != history.capacity[0].keys():
                raise ValueError(f"{where}: capacity: expected the same gates in every row, and at least one")
            check_form(row, dict.fromkeys(row, float), f"{where}: capacity")
        for row in history.epochs:
            check_form(row, dict.fromkeys(row, _NUMBERS), f"{where}: epochs")
        history.names = list(map(printable, history.names))
        return history

    @property
    def matrix(self) -> Tensor:
        """The accuracy, float64 [T, T]; NaN for tasks that are not yet learned, or forgotten."""
        matrix = torch.full((len(self.accuracy), len(self.accuracy)), torch.nan, dtype=torch.float64)
        for task, row in enumerate(self.accuracy):
            matrix[task, : len(row)] = torch.tensor(row, dtype=torch.float64)
        return matrix

    @property
    def kept(self) -> list[int]:
        """The tasks that `hat.forget` had not removed when the last task ended. `hat.metrics` counts these tasks."""
        return [task for task, value in enumerate(self.accuracy[-1]) if not math.isnan(value)] if self.accuracy else []

    @property
    def largest_drift(self) -> float:
        """The largest drift of all tasks at all times; 0.0 if nothing was forgotten."""
        return max((value for row in self.drift for value in row if not math.isnan(value)), default=0.0)

    def last_line(self, total: int, epochs: int) -> str:
        """A line about the last task, which took `epochs` epochs, in a run of `total` tasks."""
        task, row, used = len(self.names), self.accuracy[-1], list(self.capacity[-1].values())
        shares, drift = [row[task] for task in self.kept], [self.drift[-1][task] for task in self.kept]
        return (
            f"task {task}/{total} {self.names[-1]}: {epochs} epochs, test {row[-1]:.2%}, "
            f"mean of {len(shares)} {sum(shares) / len(shares):.2%}, used {sum(used) / len(used):.1%} of the units, "
            f"drift {max(drift):g}"
        )
