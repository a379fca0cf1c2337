"""A model is saved, loaded and copied: whole, in parts, inside another module, in the middle of a task."""

from __future__ import annotations

import copy
import io
import random
from typing import Any

import torch
from torch import nn

from hat.optim.guard import locker_of
from tests.soak.actions.base import Action
from tests.soak.networks import fresh
from tests.soak.world import Broken, Saved, World

_MOST_SAVED = 3
_SHAPES = r"size mismatch|shape|units"


class Wrapper(nn.Module):
    """Another module around the model, as of Lightning."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(2, 2), model])


class Save(Action):
    """The state is kept, with that of the optimizer."""

    name = "save"
    weight = 2.0

    def perform(self, world: World, rng: random.Random) -> None:
        state = copy.deepcopy(world.model.state_dict())
        optimizer = None
        if world.optimizer is not None:
            optimizer = type(world.optimizer), copy.deepcopy(world.optimizer.state_dict())
        kept = Saved(state, dict(world.promises), world.units(), optimizer, frozenset(world.hazards | world.untold))
        world.saved = [*world.saved[1 - _MOST_SAVED :], kept]


class LoadFresh(Action):
    """A saved state goes into a new model."""

    name = "load-fresh"
    may_stop = True

    def possible(self, world: World) -> bool:
        return bool(world.saved)

    def perform(self, world: World, rng: random.Random) -> None:
        saved, model = rng.choice(world.saved), fresh(world.network)
        _load(model, saved.state, rng)
        world.model, world.optimizer = model, None
        _adopt(world, saved)


class LoadLiving(Action):
    """A saved state goes into the living model, whose optimizer lives on or gets its saved state, too."""

    name = "load-living"
    refusals = ((ValueError, "parameter group|state: expected"),)
    may_stop = True

    def possible(self, world: World) -> bool:
        return bool(world.saved)

    def perform(self, world: World, rng: random.Random) -> None:
        saved = rng.choice(world.saved)
        world.other = saved.promises
        try:
            _load(world.model, saved.state, rng)
        except RuntimeError:
            if saved.units == world.units():
                raise
            return
        _adopt(world, saved)
        optimizer = rng.choice(["none", "living", "loaded"])
        if optimizer == "none":
            world.optimizer = None
        elif optimizer == "loaded" and saved.optimizer is not None:
            kind, state = saved.optimizer
            if type(world.optimizer) is kind:
                world.optimizer.load_state_dict(state)


class LoadPart(Action):
    """A part of a state goes into the living model: of the present state, or of a saved one that may not fit it."""

    name = "load-part"
    may_stop = True
    refusals = ((RuntimeError, "."), (ValueError, "."))

    def perform(self, world: World, rng: random.Random) -> None:
        present = copy.deepcopy(world.model.state_dict())
        if rng.random() < 0.5 or not world.saved:
            state = _part(present, rng)
            try:
                _load(world.model, state, rng, strict=False)
            except RuntimeError as error:
                raise Broken("a part of the present state is refused", str(error)) from error
        else:
            saved = rng.choice(world.saved)
            world.hazards |= saved.hazards
            state = _part(saved.state, rng)
            if len(state) == len(saved.state):  # the whole, see `LoadLiving`
                return
            if rng.random() < 0.3:
                _load(world.model, {**present, **state}, rng)
            else:
                _load(world.model, state, rng, strict=False)


class LoadLacking(Action):
    """A state that lacks one key is refused, as `strict` is true."""

    name = "load-lacking"
    weight = 0.3

    def perform(self, world: World, rng: random.Random) -> None:
        state = copy.deepcopy(world.model.state_dict())
        lacks = rng.choice(list(state))
        del state[lacks]
        try:
            world.model.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            if lacks.split(".")[-1].strip("_") not in str(error):
                raise Broken("an error does not name the absent key", f"{lacks}: {error}") from error
        else:
            raise Broken("a state without a key is accepted", lacks)


class Copy(Action):
    """A copy lives on: of the model, or of the model and the optimizer. The original stands by.

    torch cannot copy its LBFGS: a copy lacks `_params`.
    """

    name = "copy"

    def perform(self, world: World, rng: random.Random) -> None:
        if not world.untold:
            world.bystander = world.model, dict(world.promises)
        if rng.random() < 0.5 or isinstance(world.optimizer, torch.optim.LBFGS):
            world.model, world.optimizer = copy.deepcopy(world.model), None
        else:
            world.model, world.optimizer = copy.deepcopy((world.model, world.optimizer))


class Pickle(Action):
    """A pickled model lives on, alone or with its optimizer."""

    name = "pickle"
    weight = 0.5

    def perform(self, world: World, rng: random.Random) -> None:
        optimizer = None if isinstance(world.optimizer, torch.optim.LBFGS) or rng.random() < 0.5 else world.optimizer
        file = io.BytesIO()
        torch.save((world.model, optimizer), file)
        file.seek(0)
        world.model, world.optimizer = torch.load(file, weights_only=False)
        if world.optimizer is not None and world.model.holds and locker_of(world.optimizer) is None:
            world.hazards.add("unguarded optimizer")


def _load(model: nn.Module, state: dict[str, Any], rng: random.Random, *, strict: bool = True) -> None:
    """Load a copy of the state, perhaps inside another module, perhaps with `assign=True`."""
    state, assign = copy.deepcopy(state), rng.random() < 0.3
    if rng.random() < 0.3:
        wrapper = Wrapper(model)
        inside = {f"parts.1.{name}": value for name, value in state.items()}
        around = {name: value for name, value in wrapper.state_dict().items() if name.startswith("parts.0")}
        wrapper.load_state_dict(around | inside, strict, assign)
    else:
        model.load_state_dict(state, strict, assign)


def _adopt(world: World, saved: Saved) -> None:
    world.promises, world.hazards, world.untold = dict(saved.promises), set(saved.hazards), set()
    world.learns_head = None


def _part(state: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Some of the values of a state, as a user may keep them."""
    share = rng.random()
    head = rng.choice([name for name in state if name.startswith("heads.")] or ["heads"])
    keep = rng.choice(
        [
            lambda name: rng.random() < share,
            lambda name: name.startswith("body."),
            lambda name: name.startswith("heads."),
            lambda name: name != head,
            lambda name: not name.endswith(("reserved", "_extra_state")),
            lambda name: name == head,
            lambda name: False,
        ]
    )
    return {name: value for name, value in state.items() if keep(name)}
