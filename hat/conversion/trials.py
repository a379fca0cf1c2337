"""Trying out which units may change places: those of which the network then still computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from hat.network.movable import movable, segments
from hat.network.moving import changes_of, expanded, rearrange
from hat.network.network import Network
from hat.network.tolerance import LAYERS, difference
from hat.tracing.checks import other
from hat.units.gate import Gate
from hat.units.per_task import per_task
from hat.units.state import LEARNING, OPEN

_CHANGE, _OFFSET = 0.3, 0.05
"""Values that are all alike, as of a fresh norm, would hide that they were moved wrongly."""

Order = Callable[[Tensor], Tensor]


@torch.no_grad()
def keep_places(model: Network, example: tuple[Any, ...]) -> None:
    """Units keep their places for good where another order would make it another function.

    Classes and segments say which units are alike. A unit that lies several times along a dimension, as behind a
    flatten that was rolled, may be so without its places being in the same order as another's. Tried on a copy with
    weights that are all different, and on inputs that are: an image of zeros is the same at every position.
    """
    if movable(model):
        with _no_cache():
            _keep(model, example)


def _no_cache() -> torch.autocast:
    """Autocast as it is now, but without its cache: it would answer with the weights from before a move."""
    return torch.autocast(
        "cpu", torch.get_autocast_dtype("cpu"), enabled=torch.is_autocast_enabled("cpu"), cache_enabled=False
    )


def _keep(model: Network, example: tuple[Any, ...]) -> None:
    tried = copy.deepcopy(model).eval()
    vary(tried)
    names = {gate: name for name, gate in tried.gates.items()}
    example = _varied(tried, example)
    can = movable(tried)
    if not _changes(tried, can, example):
        return
    bad = [gate for gate in can if _changes(tried, [gate], example)]
    if _changes(tried, [gate for gate in can if gate not in bad], example):
        bad = can
    for gate in bad:
        own = model.gates[names[gate]]
        own.segments = torch.arange(own.units, device=own.used.device)


@torch.no_grad()
def vary(model: Network) -> None:
    """Change all weights a little, in place, so that none are alike: the shared ones, and every task's own."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.body.parameters():
        drawn = torch.randn(2, *parameter.shape, generator=generator).to(parameter)
        parameter.mul_(1 + _CHANGE * drawn[0]).add_(_OFFSET * drawn[1])
    for module in per_task(model.body).values():
        for _, values in module.stacks():
            if values.is_floating_point():  # a variance among them stays one
                drawn = torch.rand(2, *values.shape, generator=generator).to(values)
                values.mul_(1 + _CHANGE * drawn[0]).add_(_OFFSET * drawn[1])


def _varied(model: Network, example: tuple[Any, ...]) -> tuple[Any, ...]:
    """Values that are not all alike, if the network takes them."""
    inputs = other(example, 0)
    try:
        _answers(model, inputs)
    except Exception:  # lengths, say, that fit together only as they are
        return example
    return inputs


def _changes(model: Network, gates: Iterable[Gate], example: tuple[Any, ...]) -> bool:
    """Whether it answers otherwise when units of these gates have changed places; they are put back."""
    generator = torch.Generator().manual_seed(0)

    def rolled(here: Tensor) -> Tensor:
        return here.roll(1)

    def shuffled(here: Tensor) -> Tensor:
        return here[torch.randperm(len(here), generator=generator)]

    gates, before = list(gates), _answers(model, example)
    for order in (rolled, shuffled):
        orders = {gate: _order(gate, order) for gate in gates}
        rearrange(orders, changes_of(orders))
        after = _answers(model, example)
        back = {gate: new.argsort() for gate, new in orders.items()}
        rearrange(back, changes_of(back))
        new = orders.get(model.outputs) if model.outputs is not None else None
        for one, now in zip(before, after, strict=True):
            same = one if new is None else one[..., expanded(new, one.shape[-1] // len(new))]
            if difference(now, same, LAYERS):
                return True
    return False


def _order(gate: Gate, order: Order) -> Tensor:
    new = torch.arange(gate.units)
    for here in segments(gate):
        new[here] = order(here)
    return new.to(gate.used.device)


def _answers(model: Network, example: tuple[Any, ...]) -> list[Tensor]:
    """With open gates, and with some of them closed."""
    answers = []
    for answer in (OPEN, LEARNING):
        with model.state.answering(answer):
            answers.append(model.body(*example))
    return answers
