"""Tasks begin, end and are forgotten; the network grows and is exported."""

from __future__ import annotations

import random

import torch

import hat
from hat.optim.guard import locker_of
from tests.soak.actions.base import Action
from tests.soak.optimizers import head_in
from tests.soak.world import Broken, World

MOST_TASKS = 5


class Begin(Action):
    """A task begins. The optimizer is made anew, or gets the new head, or is left as it is."""

    name = "begin"
    weight = 4.0
    may_stop = True

    def possible(self, world: World) -> bool:
        return not world.model.learning and world.model.tasks < MOST_TASKS

    def perform(self, world: World, rng: random.Random) -> None:
        optimizer = rng.choice(["new", "new", "extended", "extended", "kept"])
        world.model.begin_task(rng.randint(2, 4))
        if optimizer == "new":
            world.optimizer = None
        elif optimizer == "extended" and world.optimizer is not None and not head_in(world.optimizer, world.model.head):
            self._extend(world, world.optimizer)

    def _extend(self, world: World, optimizer: torch.optim.Optimizer) -> None:
        if isinstance(optimizer, torch.optim.LBFGS):  # takes one group only
            world.optimizer = None
        elif isinstance(optimizer, torch.optim.Muon):
            optimizer.add_param_group({"params": [world.model.head.weight]})
        else:
            optimizer.add_param_group({"params": list(world.model.head.parameters())})


class End(Action):
    """The task ends."""

    name = "end"
    weight = 4.0
    refusals = ((ValueError, "expected finite values"),)
    may_stop = True

    def possible(self, world: World) -> bool:
        return world.model.learning

    def perform(self, world: World, rng: random.Random) -> None:
        world.model.end_task()


class Grow(Action):
    """Units join all gates, or one. An optimizer without a guard cannot follow; a fused one would crash."""

    name = "grow"
    refusals = ((ValueError, "cannot grow"),)
    may_stop = True

    def possible(self, world: World) -> bool:
        return sum(world.units().values()) < 100

    def perform(self, world: World, rng: random.Random) -> None:
        world.grows = True
        if locker_of(world.optimizer) is None:
            world.optimizer = None
        one = {rng.choice(list(world.model.gates)): rng.randint(1, 3)}
        hat.grow(world.model, rng.choice([1, 2, 0.3, one, one]))


class Forget(Action):
    """A finished task is removed."""

    name = "forget"
    weight = 0.6
    may_stop = True

    def possible(self, world: World) -> bool:
        return not world.model.learning and bool(world.model.remembered)

    def perform(self, world: World, rng: random.Random) -> None:
        world.leaves = rng.choice(world.model.remembered)
        hat.forget(world.model, world.leaves)


class Export(Action):
    """Small networks for one task, or for several, give the answers of the model."""

    name = "export"
    weight = 0.4
    refusals = ((hat.ExportError, "."),)

    def possible(self, world: World) -> bool:
        return bool(world.promises)

    def perform(self, world: World, rng: random.Random) -> None:
        tasks = rng.sample(list(world.promises), rng.randint(1, len(world.promises)))
        example = world.promises[tasks[0]].x
        if len(tasks) == 1:
            network = hat.export(world.model, task=tasks[0], example_input=example)
        else:
            network = hat.export(world.model, tasks=tasks, example_input=example)
        for task in tasks:
            x = world.promises[task].x
            with torch.no_grad():
                small = network(x) if len(tasks) == 1 else network(x, task=task)
                model = world.model.eval()(x, task=task)
            if not torch.allclose(small, model, rtol=1e-4, atol=1e-4):
                raise Broken("an exported network differs", f"task {task} by {(small - model).abs().max():.2g}")
