"""The published schedule: divide the rate by three on a plateau, and stop when the rate is too small."""

from __future__ import annotations

from dataclasses import dataclass

from hat.training.config import TrainConfig


@dataclass
class Plateau:
    """The state of the schedule of a task.

    Attributes:
        lr: the learning rate of the next epoch.
        patience: after this many more epochs without a better validation loss, the rate falls.
        epoch: how many epochs are done.
        best: the lowest validation loss so far.
    """

    lr: float
    patience: int
    epoch: int = 0
    best: float = float("inf")

    @classmethod
    def start(cls, config: TrainConfig) -> Plateau:
        """The state before the first epoch of a task."""
        return cls(lr=config.lr, patience=config.lr_patience)

    def update(self, loss: float, config: TrainConfig) -> bool:
        """Record the validation loss of one more epoch.

        Returns:
            True if this loss is the lowest so far.
        """
        self.epoch += 1
        if loss < self.best:
            self.best, self.patience = loss, config.lr_patience
            return True
        self.patience -= 1
        if self.patience <= 0:
            self.lr, self.patience = self.lr / config.lr_factor, config.lr_patience
        return False

    def done(self, config: TrainConfig) -> bool:
        """Whether no epoch is left, or the rate is below `lr_min`."""
        return self.epoch >= config.epochs or self.lr < config.lr_min
