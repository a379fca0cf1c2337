"""The published schedule: a third of the rate on a plateau, stop when it gets too small."""

from __future__ import annotations

from dataclasses import dataclass

from hat.training.config import TrainConfig


@dataclass
class Plateau:
    """Where a task stands between its first epoch and its last.

    Attributes:
        lr: the learning rate of the next epoch.
        epoch: how many epochs are done.
        best: the lowest validation loss so far.
        patience: how many epochs without a better one are still borne at this rate.
    """

    lr: float
    patience: int
    epoch: int = 0
    best: float = float("inf")

    @classmethod
    def start(cls, config: TrainConfig) -> Plateau:
        """Before the first epoch of a task."""
        return cls(lr=config.lr, patience=config.lr_patience)

    def update(self, loss: float, config: TrainConfig) -> bool:
        """Take the validation loss of one more epoch; True if it is the best so far."""
        self.epoch += 1
        if loss < self.best:
            self.best, self.patience = loss, config.lr_patience
            return True
        self.patience -= 1
        if self.patience <= 0:
            self.lr, self.patience = self.lr / config.lr_factor, config.lr_patience
        return False

    def done(self, config: TrainConfig) -> bool:
        """No epoch is left, or the rate is below `lr_min`."""
        return self.epoch >= config.epochs or self.lr < config.lr_min
