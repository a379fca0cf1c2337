"""Turns in the life of the models of this process: a task has begun or ended, or a model was made, copied or loaded.

Code that watches without being called, as `hat.optim.watching`, looks again only if the number of turns has changed.
"""

from __future__ import annotations

from weakref import WeakSet

from torch import nn

_models: WeakSet[nn.Module] = WeakSet()
turns = [0]
"""How many turns there were, in a list, because code that asks in every step reads it without a call."""


def turn(model: nn.Module) -> None:
    """Count a turn of this model."""
    _models.add(model)
    turns[0] += 1


def living() -> list[nn.Module]:
    """The models that have had a turn and still exist."""
    return list(_models)
