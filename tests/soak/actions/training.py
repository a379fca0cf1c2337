"""Steps of every optimizer, guarded or not, and weights that users write themselves."""

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import hat
from tests.hat.stepping import take_step
from tests.soak.actions.base import Action
from tests.soak.optimizers import LOCKED, TORCH, trained
from tests.soak.world import BATCH, World

_UNGUARDED = 0.1
"""How often an optimizer of torch gets no guard."""


class Optimizer(Action):
    """A new optimizer for the present task."""

    name = "optimizer"

    def possible(self, world: World) -> bool:
        return world.model.learning

    def perform(self, world: World, rng: random.Random) -> None:
        world.optimizer = make_optimizer(world.model, rng)


class Train(Action):
    """A few steps on the present task."""

    name = "train"
    weight = 6.0
    refusals = ((RuntimeError, "^in_backward: "), (ValueError, "^state: expected"))
    may_stop = True

    def possible(self, world: World) -> bool:
        return world.model.learning

    def perform(self, world: World, rng: random.Random) -> None:
        if world.optimizer is None:
            world.optimizer = make_optimizer(world.model, rng)
        world.model.train(rng.random() < 0.9)
        for _ in range(rng.randint(1, 3)):
            train_step(world, rng)


class Write(Action):
    """The user writes into a parameter, or into what a task has for itself; the library has to tell it."""

    name = "write"
    weight = 0.3

    def possible(self, world: World) -> bool:
        return bool(world.model.remembered)

    @torch.no_grad()
    def perform(self, world: World, rng: random.Random) -> None:
        world.hazards.add("weight written by hand")
        tensors = world.model.state_dict()
        weights = [name for name, _ in world.model.named_parameters() if not name.endswith("embedding")]
        of_tasks = [name for name in tensors if name.endswith(("_tasks", "body.block.0.mean"))]
        tensor = tensors[rng.choice([*weights, *of_tasks])]
        if tensor.is_floating_point():
            tensor.add_(0.1)


class Average(Action):
    """The user averages the weights with those of a saved state, as stochastic weight averaging does."""

    name = "average"
    weight = 0.3

    def possible(self, world: World) -> bool:
        return bool(world.saved and world.model.remembered)

    @torch.no_grad()
    def perform(self, world: World, rng: random.Random) -> None:
        world.hazards.add("averaged weights")
        before = rng.choice(world.saved).state
        for name, parameter in world.model.named_parameters():
            if name in before and before[name].shape == parameter.shape:
                parameter.lerp_(before[name], 0.3)


def make_optimizer(model: hat.HATModel, rng: random.Random) -> torch.optim.Optimizer:
    """Any optimizer, over the parameters of the task or of the whole model."""
    parameters = trained(model, rng.choice(["task", "task", "all"]))
    name = rng.choice([*TORCH, *LOCKED])
    if name in LOCKED:
        return LOCKED[name](parameters, model)
    optimizer = TORCH[name](parameters)
    if rng.random() < _UNGUARDED:
        return optimizer
    return hat.guard(optimizer, model, max_norm=rng.choice([None, 0.5]))


def train_step(world: World, rng: random.Random) -> None:
    """One step, perhaps in bfloat16, with the body computed again, or with a loss on a finished task, too."""
    model, optimizer = world.model, world.optimizer
    assert optimizer is not None
    x, y = torch.randn(BATCH, *world.shape), torch.randint(len(model.classes[-1]), (BATCH,))
    low, again = rng.random() < 0.2, rng.choice([None, None, None, True, False])
    old = rng.choice(list(world.promises)) if world.promises and rng.random() < 0.3 else None
    penalty, passes = rng.choice([0.0, 0.75]), rng.choice([1, 1, 1, 2])
    model.anneal(rng.choice([0.0, rng.random(), 1.0]))

    def closure() -> Any:
        optimizer.zero_grad(set_to_none=rng.random() < 0.5)
        for _ in range(passes):
            with torch.autocast("cpu", dtype=torch.bfloat16) if low else nullcontext():
                loss = F.cross_entropy(_logits(model, x, None, again).float(), y) + penalty * model.penalty()
                if old is not None:
                    loss = loss + _logits(model, x, old, again).float().square().mean()
            if loss.requires_grad:
                loss.backward()
        return loss.detach()

    world.begin_step()
    take_step(optimizer, closure)
    world.end_step()


def _logits(model: hat.HATModel, x: Tensor, task: int | None, again: bool | None) -> Tensor:
    """The logits; `again` computes the whole network again in the backward pass, reentrant or not."""
    if again is None:
        return model(x, task=task)
    return checkpoint(lambda z: model(z, task=task), x.requires_grad_(), use_reentrant=again)
