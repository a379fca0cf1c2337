"""Trying out which units may change places, so that the network still computes the same function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from hat.network.movable import movable, segments
from hat.network.moving import changes_of, expanded, rearrange
from hat.network.network import Network
from hat.network.tolerance import LAYERS, difference, varied
from hat.tracing.checks import other_inputs
from hat.units.gate import Gate
from hat.units.per_task import per_task
from hat.units.state import LEARNING, OPEN

Order = Callable[[Tensor], Tensor]


@torch.no_grad()
def keep_places(model: Network, example: tuple[Any, ...]) -> None:
    """Let the units of a gate keep their places for good, if another order changes what the network computes.

    The analysis says which units may change places. This can be wrong for a unit that lies several times along a
    dimension, as behind a flatten that was rolled: its places may be in another order than the places of another unit.
    So every order is tried on a copy of the network. The copy has weights that are all different, and gets inputs that
    are all different, because an image of zeros would be the same at every position.

    Args:
        model: changed in place: a gate whose units must stay gets a segment for every unit.
        example: the inputs of the body.
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
    must_stay = [gate for gate in can if _changes(tried, [gate], example)]
    if _changes(tried, [gate for gate in can if gate not in must_stay], example):
        must_stay = can
    for gate_of_copy in must_stay:
        gate = model.gates[names[gate_of_copy]]
        gate.segments = torch.arange(gate.units, device="cpu")


@torch.no_grad()
def vary(model: Network) -> None:
    """Change all weights a little, in place, so that no two are equal: the shared weights and the per-task tensors."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.body.parameters():
        drawn = torch.randn(2, *parameter.shape, generator=generator).to(parameter)
        parameter.copy_(varied(parameter, *drawn))
    for module in per_task(model.body).values():
        for _, values in module.stacks():
            if values.is_floating_point():  # the factors are positive, so that a variance stays positive
                drawn = torch.rand(2, *values.shape, generator=generator).to(values)
                values.copy_(varied(values, *drawn))


def _varied(model: Network, example: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs whose values are not all equal, if the network takes such inputs; else the example."""
    inputs = other_inputs(example, 0)
    try:
        _answers(model, inputs)
    except Exception:  # for example lengths that must fit together
        return example
    return inputs


def _changes(model: Network, gates: Iterable[Gate], example: tuple[Any, ...]) -> bool:
    """Whether the network answers differently after units of these gates have changed places.

    At the end, the units are back at their places.
    """
    generator = torch.Generator().manual_seed(0)

    def rolled(places: Tensor) -> Tensor:
        return places.roll(1)

    def shuffled(places: Tensor) -> Tensor:
        return places[torch.randperm(len(places), generator=generator)]

    gates, before = list(gates), _answers(model, example)
    for order in (rolled, shuffled):
        orders = {gate: _order(gate, order) for gate in gates}
        rearrange(orders, changes_of(orders))
        after = _answers(model, example)
        back = {gate: new.argsort() for gate, new in orders.items()}
        rearrange(back, changes_of(back))
        new = orders.get(model.outputs) if model.outputs is not None else None
        for old_answer, new_answer in zip(before, after, strict=True):
            repeat = 0 if new is None else old_answer.shape[-1] // len(new)
            expected = old_answer if new is None else old_answer[..., expanded(new, repeat)]
            if difference(new_answer, expected, LAYERS):
                return True
    return False


def _order(gate: Gate, order: Order) -> Tensor:
    new = torch.arange(gate.units)
    for segment in segments(gate):
        new[segment] = order(segment)
    return new.to(gate.used.device)


def _answers(model: Network, example: tuple[Any, ...]) -> list[Tensor]:
    """The features with open gates, and with the gates of a random embedding."""
    answers = []
    for answer in (OPEN, LEARNING):
        with model.state.answering(answer):
            answers.append(model.body(*example))
    return answers
