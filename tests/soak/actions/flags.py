"""Switches that a user may flip at any time."""

from __future__ import annotations

import random

from tests.soak.actions.base import Action
from tests.soak.networks import RECOMPUTE, Wired
from tests.soak.world import World


class RequiresGrad(Action):
    """`requires_grad_` of the model, of its body, of a head or of one parameter."""

    name = "requires-grad"

    def perform(self, world: World, rng: random.Random) -> None:
        model = world.model
        parameter = rng.choice(list(model.parameters()))
        target = rng.choice([model, model, model.body, rng.choice([model.body, *model.heads]), parameter, parameter])
        target.requires_grad_(rng.random() < 0.7)


class Mode(Action):
    """Training or evaluation mode, of the model or of its body."""

    name = "mode"
    weight = 0.5

    def perform(self, world: World, rng: random.Random) -> None:
        rng.choice([world.model, world.model.body]).train(rng.random() < 0.5)


class Recompute(Action):
    """The body computes a part again in the backward pass, or no longer."""

    name = "recompute"

    def possible(self, world: World) -> bool:
        return isinstance(world.model.body, Wired)

    def perform(self, world: World, rng: random.Random) -> None:
        world.model.body.recompute = rng.choice(RECOMPUTE)
