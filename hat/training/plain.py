"""The same network without attention: what HAT is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hat.life.model import HATModel, TaskParameters
from hat.units.blocks import Block
from hat.units.gate import Gate
from hat.units.per_task import PerTask
from hat.units.state import PLAIN
from hat_kernels import Lock


class PlainModel(HATModel):
    """A `HATModel` with every gate open and nothing locked: one shared network, one head per task, plain training.

    Trained on a stream it forgets, which is the point of comparison; trained on one task, or on all at once, it is
    the accuracy that a task can reach.
    """

    def locks(self) -> dict[Tensor, Lock | None]:
        return dict.fromkeys(super().locks())

    def blocks(self) -> dict[Tensor, list[Block]]:
        return {p: [Block()] for p in super().blocks()}

    def frozen_parameters(self) -> list[nn.Parameter]:
        return []

    def penalty(self) -> Tensor:
        return torch.zeros((), device=self.state.scale.device)

    def task_parameters(self) -> TaskParameters:
        """Everything but the embeddings; a head that is not used gets no gradient and stays."""
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

    def _gate_task(self, task: int) -> str:
        return PLAIN

    def parts(self) -> list[Gate | PerTask]:
        """No part but a gate begins anew with a task: one network is shared by all."""
        return list(self.gates.values())
