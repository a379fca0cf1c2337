"""A training step as three phases, which are timed separately."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PHASES = ("forward", "backward", "update")


class TrainingStep:
    """Training steps. A subclass defines the phases forward, backward and update.

    The backward phase begins with the removal of the old gradients, as in a plain training loop. Clipping, locks and
    clamping belong to the update. If weights move inside the backward pass, their movement belongs to the backward
    phase.

    Attributes:
        name: the name of the kind of variant.
        model: the model.
        optimizer: the optimizer of the model's parameters.
    """

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer

    def forward(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Compute the loss.

        Args:
            x: a batch of inputs.
            y: the labels [B].
            progress: the progress of the epoch, in [0, 1].
        """
        raise NotImplementedError

    def backward(self, loss: Tensor) -> None:
        """Replace the old gradients by the gradients of `loss`."""
        self.optimizer.zero_grad()
        loss.backward()

    def update(self) -> None:
        """Move the weights."""
        self.optimizer.step()

    def __call__(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Run all three phases. Returns the loss before the update."""
        loss = self.forward(x, y, progress)
        self.backward(loss)
        self.update()
        return loss.detach()
