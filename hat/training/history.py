"""What a run has seen so far: every epoch, the accuracy matrix, capacity and drift."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class History:
    """Plain lists and numbers, so that it is saved as it is.

    Attributes:
        epochs: one dict an epoch.
        accuracy: row t holds the test accuracy, in [0, 1], of tasks 0..t after task t.
        capacity: row t holds the used share of every gate by name after task t.
        drift: row t holds the largest change of any logit of tasks 0..t since they were learned.
        names: of the tasks.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    accuracy: list[list[float]] = field(default_factory=list)
    capacity: list[dict[str, float]] = field(default_factory=list)
    drift: list[list[float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @property
    def matrix(self) -> Tensor:
        """[T, T] float64 accuracy, NaN for tasks not yet learned."""
        matrix = torch.full((len(self.accuracy), len(self.accuracy)), torch.nan, dtype=torch.float64)
        for task, row in enumerate(self.accuracy):
            matrix[task, : len(row)] = torch.tensor(row, dtype=torch.float64)
        return matrix

    @property
    def largest_drift(self) -> float:
        """Over all tasks and times; 0.0 if nothing was forgotten."""
        return max((value for row in self.drift for value in row), default=0.0)
