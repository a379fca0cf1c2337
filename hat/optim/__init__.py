"""Optimizers that cannot move a locked weight."""

from hat.optim import watching
from hat.optim.adamw import AdamW
from hat.optim.sgd import SGD

__all__ = ["SGD", "AdamW"]

watching.start()
