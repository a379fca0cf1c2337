"""The units along the first two dimensions of a parameter, read from the gates that the parameter lies along.

Example: `first = Linear(3, 2)` and `second = Linear(2, 1)`, behind each of them a gate. The weight of `second` [1, 2]
lies along the gate of `second` by its rows and along the gate of `first` by its columns:

    uses_of(gates)[second, "weight"]   [(gate of first, Along(second, "weight", 1)),
                                        (gate of second, Along(second, "weight", 0))]
    sides_of(those uses, shape)        Sides(rows=gate of second's units, columns=gate of first's units)

The weight of `first` [2, 3] lies along one gate, so its `columns` are None: its inputs are no units of any gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce

import torch
from torch import Tensor

from hat.units.along import Along, Owner
from hat.units.blocks import Side, Sides
from hat.units.gate import Gate

Use = tuple[Gate, Along]
"""A gate, and a parameter that lies along the gate."""


def uses_of(gates: Iterable[Gate]) -> dict[Owner, list[Use]]:
    """The uses of every parameter that lies along these gates, by the module that owns it and its name there."""
    uses: dict[Owner, list[Use]] = {}
    for gate in gates:
        for along in gate.members:
            uses.setdefault((along.module, along.name), []).append((gate, along))
    return uses


def sides_of(uses: Iterable[Use], shape: torch.Size, free: Mapping[Gate, Tensor] | None = None) -> Sides:
    """The units along the first two dimensions of a parameter of this shape.

    Args:
        uses: the gates along which the parameter lies.
        shape: the shape of the parameter.
        free: [units] in [0, 1] of every gate; by default `Gate.free`, what the finished tasks have left.
    """
    sides = Sides()
    for dim in (0, 1):
        uses_of_dim = [(gate, along) for gate, along in uses if along.dim == dim]
        if not uses_of_dim:
            continue
        groups = uses_of_dim[0][1].groups
        sides_of_dim = [_side(gate, along, free) for gate, along in uses_of_dim if along.places is None]
        placed = [use for use in uses_of_dim if use[1].places is not None]
        if placed:
            sides_of_dim.append(_side_by_side(placed, shape[dim] * (groups if dim else 1), free))
        sides = sides.along(reduce(Side.meet, sides_of_dim), dim, groups)
    return sides


def _side(gate: Gate, along: Along, free: Mapping[Gate, Tensor] | None) -> Side:
    return gate.side(along.repeat) if free is None else Side(free[gate], along.repeat)


def _side_by_side(uses: Iterable[Use], length: int, free: Mapping[Gate, Tensor] | None) -> Side:
    """The units of one dimension that lies along several gates.

    An index that belongs to no gate is an input that no task can switch off. Such an index counts as used.
    """
    sides = [(along.places, _side(gate, along, free)) for gate, along in uses]
    free_of_all = sides[0][1].free.new_zeros(length)
    locked, ordered = torch.ones(length, dtype=torch.bool), True
    for places, side in sides:
        assert places is not None
        free_of_all[places] = side.free.repeat_interleave(side.repeat)
        locked[places.cpu()] = (torch.arange(len(side.free)) < side.locked).repeat_interleave(side.repeat)
        ordered &= side.in_order
    front = int(locked.cumprod(0).sum())
    return Side(free_of_all, 1, front, ordered and not bool(locked[front:].any()))
