"""The units along the first two dimensions of a parameter, as its gates have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce

import torch
from torch import Tensor

from hat.units.along import Along, Owner
from hat.units.blocks import Side, Sides
from hat.units.gate import Gate

Use = tuple[Gate, Along]
"""A gate, and what lies along it."""


def uses_of(gates: Iterable[Gate]) -> dict[Owner, list[Use]]:
    """What lies along these gates, by the module that has the parameter and its name there."""
    uses: dict[Owner, list[Use]] = {}
    for gate in gates:
        for along in gate.members:
            uses.setdefault((along.module, along.name), []).append((gate, along))
    return uses


def sides_of(uses: Iterable[Use], shape: torch.Size, free: Mapping[Gate, Tensor] | None = None) -> Sides:
    """The units along the first two dimensions of a parameter of this shape.

    Args:
        uses: the gates along which it lies.
        shape: of the parameter.
        free: [units] in [0, 1] of every gate; by default what its finished tasks have left.
    """
    found = Sides()
    for dim in (0, 1):
        here = [(gate, along) for gate, along in uses if along.dim == dim]
        if not here:
            continue
        groups = here[0][1].groups
        sides = [_side(gate, along, free) for gate, along in here if along.places is None]
        placed = [use for use in here if use[1].places is not None]
        if placed:
            sides.append(_side_by_side(placed, shape[dim] * (groups if dim else 1), free))
        found = found.along(reduce(Side.meet, sides), dim, groups)
    return found


def _side(gate: Gate, along: Along, free: Mapping[Gate, Tensor] | None) -> Side:
    return gate.side(along.repeat) if free is None else Side(free[gate], along.repeat)


def _side_by_side(uses: Iterable[Use], length: int, free: Mapping[Gate, Tensor] | None) -> Side:
    """One dimension along several gates; an index that belongs to none is an input that nobody can switch off."""
    sides = [(along.places, _side(gate, along, free)) for gate, along in uses]
    found = sides[0][1].free.new_zeros(length)
    locked, ordered = torch.ones(length, dtype=torch.bool), True
    for places, side in sides:
        assert places is not None
        found[places] = side.free.repeat_interleave(side.repeat)
        locked[places.cpu()] = (torch.arange(len(side.free)) < side.locked).repeat_interleave(side.repeat)
        ordered &= side.in_order
    front = int(locked.cumprod(0).sum())
    return Side(found, 1, front, ordered and not bool(locked[front:].any()))
