"""Turns in the life of the models of this process: after a turn, a model may train other parameters than before.

A turn is the beginning or end of a task, a task that is forgotten, growth, a load, or a copy. Code that watches without
being called, as `hat.optim.watching` and `hat.network.data_parallel`, looks again only after a turn.
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
