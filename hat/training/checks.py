"""Check after every task that a run has forgotten nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hat.data import Task
from hat.data.part import placed
from hat.life.model import HATModel
from hat.training.config import TrainConfig
from hat.verification.verify import ForgettingError, Probes, Verification, verify

_IMAGES = 64  # probed images of every task; their logits depend on all units that the task uses


class Check(NamedTuple):
    """The result of a check.

    Attributes:
        task: the task that had just ended.
        verification: the result of `hat.verify`.
    """

    task: int
    verification: Verification

    def row(self) -> dict[str, Any]:
        """Plain numbers and names: the largest change of any logit, and the name of what moved, or None."""
        result = self.verification
        moved = None if result.moved is None else f"{result.kind} {result.moved}"
        return {"verified_drift": result.largest, "verified_moved": moved}

    def require(self) -> None:
        """Refuse to go on with a model that forgets.

        Raises:
            ForgettingError: an earlier task answers differently, or something that it uses has moved.
        """
        result = self.verification
        if not result.exact:
            raise ForgettingError(f"verify: expected nothing to move in task {self.task}, got {result}", result)


class Checks:
    """The probes of all tasks that a run has learned.

    Args:
        model: the model that learns.
        stream: the tasks.
        config: names the device.

    Raises:
        ValueError: the mask mode of the model is not `"binary"`, so all weights may move a little.
    """

    def __init__(self, model: HATModel, stream: Sequence[Task], config: TrainConfig) -> None:
        if model.config.mask_mode != "binary":
            raise ValueError(f"verify: expected False in mode {model.config.mask_mode!r}, as weights move, got True")
        self.model, self.stream, self.config = model, stream, config
        self.probes = Probes()

    def start(self) -> None:
        """Probe the tasks that the model knows now. Earlier probes are dropped."""
        self.probes = Probes()
        for task in self.model.remembered:
            self._add(task)

    def after(self, task: int) -> Check:
        """Probe the task that has just ended, and compare all other tasks with their probes."""
        self._add(task)
        return Check(task, verify(self.model, self.probes))

    def _add(self, task: int) -> None:
        test = placed(self.stream[task].test, self.config.torch_device())
        x, _ = next(iter(test.batches(batch_size=_IMAGES)))
        self.probes.add(self.model, task, x.to(self.config.torch_device()))
