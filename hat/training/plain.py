"""The same network without attention, to compare HAT with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hat.life.model import HATModel, TaskParameters
from hat.units.gate import Gate
from hat.units.per_task import PerTask
from hat.units.state import PLAIN, Answer


class PlainModel(HATModel):
    """A `HATModel` with every gate open and nothing locked: one shared network, one head per task, plain training.

    If it learns a stream task by task, it forgets: HAT is compared with this. If it learns one task, or all tasks at
    once, it shows the accuracy that a task can reach.
    """

    commits = False

    @property
    def holds(self) -> bool:
        return False

    def frozen_parameters(self) -> list[nn.Parameter]:
        return []

    def penalty(self) -> Tensor:
        return torch.zeros((), device=self.state.scale.device)

    def task_parameters(self) -> TaskParameters:
        """All parameters but the embeddings. A head that is not used gets no gradient, so it does not move."""
        self.require_learning("task_parameters")
        embeddings = {id(embedding) for embedding in self.embeddings}
        shared = [p for p in self.body.parameters() if id(p) not in embeddings]
        return TaskParameters([*shared, *self.heads.parameters()], self)

    def end_task(self) -> int:
        task = self.task
        self.learning = False
        self.eval()
        return task

    def _keeps_buffers(self) -> bool:
        return False

    def _answer_of(self, task: int) -> Answer:
        return PLAIN

    def parts(self) -> list[Gate | PerTask]:
        """Only the gates, because all tasks share one network: no other part begins anew with a task."""
        return list(self.gates.values())
