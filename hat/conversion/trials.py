"""Trying out which units may change places, so that the network still computes the same function.

Units change places within their segment. Two segments of 3 and 4 units have 3! 4! = 144 orders together, and a few runs
stand for all of them. Every run puts each segment into one of two orders. A bit says which: 0 rolls all units of the
segment by one place, 1 rolls all units but the last one. The bits of a segment through all runs are its code:

    segment     code   run 0         run 1
    0, 3 units  0 1    [2, 0, 1]     [1, 0, 2]
    1, 4 units  1 0    [2, 0, 1, 3]  [3, 0, 1, 2]

Every code has both bits, and no two codes are equal. If the network computes the same function in two orders, it also
computes it in one order after the other: the good orders are a group. So if no run changes the answer, all are good:

- One segment. Its code has both bits. The second order undone and then the first one swap two neighbours, and swaps of
  these neighbours and cycles of all units make every order.
- Two segments of the same length, whose units may be tied, as in a product of two halves. Then the order of one segment
  would say which order the other one must have. But their codes differ, so in some run one has the first order and the
  other one the second order. These are cycles of different lengths, one of them is even and the other one is odd, so
  neither can be the image of the other under a map that keeps products (Goursat's lemma).
- What is left are ties by the signs of orders alone, as by determinants of weights. No rule of `hat.conversion.rules`
  follows units through a determinant, so their gate is not complete and does not move.

Whether the function is the same is seen from one set of weights, gates and inputs. These are different numbers from a
formula that knows nothing of the network, see `hat.tracing.different`. A network that computes another function in some
order would have to give equal answers on these numbers by coincidence, in every run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor

from hat.network.movable import movable, segments
from hat.network.moving import changes_of, expanded, rearrange
from hat.network.network import Network
from hat.network.tolerance import LAYERS, difference, varied
from hat.tracing.checks import other_inputs
from hat.tracing.different import AllDifferent
from hat.units.gate import Gate
from hat.units.per_task import per_task
from hat.units.state import LEARNING


@torch.no_grad()
def keep_places(model: Network, example: tuple[Any, ...]) -> None:
    """Let the units of a gate keep their places for good, if another order changes what the network computes.

    The analysis says which units may change places. This can be wrong for a unit that lies several times along a
    dimension, as behind a flatten that was rolled: its places may be in another order than the places of another unit.
    So orders are tried on a copy of the network, see above. Weights and gates of the copy are all different, and so are
    its inputs, because an image of zeros would be the same at every position.

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
    _vary_gates(tried)
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
    """Change all weights a little, in place, so that no two are equal: the shared weights and the per-task tensors.

    No number is drawn. Equal weights, as in a new norm, become different, see `varied`.
    """
    numbers = AllDifferent()
    for parameter in model.body.parameters():
        parameter.copy_(varied(parameter, numbers.around_zero(parameter.shape)))
    for module in per_task(model.body).values():
        for _, values in module.stacks():
            if values.is_floating_point():  # numbers >= 0, so that a variance stays positive
                values.copy_(varied(values, numbers.take(values.shape)))


def _vary_gates(model: Network) -> None:
    """Open every gate to another degree: with these numbers, all gates lie between 0.15 and 0.85."""
    numbers = AllDifferent()
    model.state.scale.fill_(1)
    for gate in model.gates.values():
        gate.embedding.copy_(numbers.around_zero(gate.embedding.shape))


def _varied(model: Network, example: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs whose values are not all equal, if the network takes such inputs; else the example."""
    inputs = other_inputs(example, 0)
    return example if _answer(model, inputs) is None else inputs  # for example lengths that must fit together


def _changes(model: Network, gates: Iterable[Gate], example: tuple[Any, ...]) -> bool:
    """Whether the network answers differently after units of these gates have changed places, or fails.

    At the end, the units are back at their places.
    """
    before, gates = _answer(model, example), list(gates)
    if before is None:
        return True
    unmoved = {gate: torch.arange(gate.units, device=gate.used.device) for gate in gates}
    present, changed = unmoved, False
    for orders in _orders(gates):
        _rearrange(present, orders)
        present = orders
        after = _answer(model, example)
        if after is None:
            changed = True
            break
        new = orders.get(model.outputs) if model.outputs is not None else None
        expected = before if new is None else before[..., expanded(new, before.shape[-1] // len(new))]
        changed = bool(difference(after, expected, LAYERS))
        if changed:
            break
    _rearrange(present, unmoved)
    return changed


def _rearrange(present: dict[Gate, Tensor], wanted: dict[Gate, Tensor]) -> None:
    """Move units from their present order to another one."""
    steps = {gate: present[gate].argsort()[new] for gate, new in wanted.items()}
    rearrange(steps, changes_of(steps))


def _orders(gates: list[Gate]) -> Iterator[dict[Gate, Tensor]]:
    """The orders of all units that are tried, see above; nothing if there are no gates."""
    segments_by_gate = {gate: segments(gate) for gate in gates}
    number = sum(map(len, segments_by_gate.values()))
    runs = next(bits for bits in count(2) if 2**bits - 2 >= number)  # no code has equal bits
    for run in range(runs if number else 0):
        code, orders = 1, {}
        for gate, segments_of_gate in segments_by_gate.items():
            new = torch.arange(gate.units)
            for segment in segments_of_gate:
                new[segment] = _rolled_but_last(segment) if code >> run & 1 else _rolled(segment)
                code += 1
            orders[gate] = new.to(gate.used.device)
        yield orders


def _rolled(places: Tensor) -> Tensor:
    return places.roll(1)


def _rolled_but_last(places: Tensor) -> Tensor:
    return torch.cat([places[:-1].roll(1), places[-1:]])


def _answer(model: Network, example: tuple[Any, ...]) -> Tensor | None:
    """The features with the gates of `_vary_gates`, or None if the network fails, as one that inverts a matrix.

    With open gates it is the same function, of other numbers.
    """
    try:
        with model.state.answering(LEARNING):
            features: Tensor = model.body(*example)
    except Exception:
        return None
    return features
