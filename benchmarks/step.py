"""A training step in the three phases that are timed one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PHASES = ("forward", "backward", "update")


class TrainingStep:
    """One training step after another; a subclass says what its phases do.

    The old gradients are dropped at the start of the backward pass, where a plain loop drops them too. What clips,
    locks or clamps belongs to the update; weights that move inside the backward pass belong to the backward pass.

    Attributes:
        name: of the kind.
        model: what is trained.
        optimizer: what trains it.
    """

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer

    def forward(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """The loss of a batch and its labels; `progress` of the epoch in [0, 1]."""
        raise NotImplementedError

    def backward(self, loss: Tensor) -> None:
        """New gradients in the place of the old ones."""
        self.optimizer.zero_grad()
        loss.backward()

    def update(self) -> None:
        """Move the weights."""
        self.optimizer.step()

    def __call__(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """All three; returns the loss before the step."""
        loss = self.forward(x, y, progress)
        self.backward(loss)
        self.update()
        return loss.detach()
