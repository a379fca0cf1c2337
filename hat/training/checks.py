"""Looking after every task whether a run has forgotten anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hat.data import Task
from hat.data.part import placed
from hat.life.model import HATModel
from hat.training.config import TrainConfig
from hat.verification.verify import ForgettingError, Probes, Verification, verify

_IMAGES = 64  # of every task: what they answer stands on all that the task uses


class Check(NamedTuple):
    """What was found after a task."""

    task: int
    found: Verification

    def row(self) -> dict[str, Any]:
        """As plain numbers and names: the largest change of any logit, and what moved or None."""
        moved = None if self.found.moved is None else f"{self.found.kind} {self.found.moved}"
        return {"verified_drift": self.found.largest, "verified_moved": moved}

    def require(self) -> None:
        """Refuse to go on with a model that forgets.

        Raises:
            ForgettingError: so it does.
        """
        if not self.found.exact:
            raise ForgettingError(f"verify: expected nothing to move in task {self.task}, got {self.found}", self.found)


class Checks:
    """Probes of the learned tasks of a run.

    Args:
        model: that learns.
        stream: its tasks.
        config: the device.

    Raises:
        ValueError: all weights of the model may move a little.
    """

    def __init__(self, model: HATModel, stream: Sequence[Task], config: TrainConfig) -> None:
        if model.config.mask_mode != "binary":
            raise ValueError(f"verify: expected False in mode {model.config.mask_mode!r}, as weights move, got True")
        self.model, self.stream, self.config = model, stream, config
        self.probes = Probes()

    def start(self) -> None:
        """Probe the tasks that a model knows already, as they are now: what they were before is not kept."""
        self.probes = Probes()
        for task in self.model.remembered:
            self._add(task)

    def after(self, task: int) -> Check:
        """Probe the task that has just ended, and compare all others with what they were."""
        self._add(task)
        return Check(task, verify(self.model, self.probes))

    def _add(self, task: int) -> None:
        test = placed(self.stream[task].test, self.config.torch_device())
        x, _ = next(iter(test.batches(batch_size=_IMAGES)))
        self.probes.add(self.model, task, x.to(self.config.torch_device()))
