"""The changes of one parameter when units of the gates along it go, or new units join.

Example: `Linear(3, 2)` reads a gate of 3 units, so its weight [2, 3] has the units [0, 1, 2] along dimension 1. With
counts [1, 0, 2], unit 1 goes and a new unit joins behind unit 2. The change of dimension 1 has `places` [[0, 2, 2]] and
`joined` [[False, False, True]], see `hat.units.change`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hat.units.along import Along
from hat.units.change import Change
from hat.units.gate import Gate
from hat.units.layout import Layout, Unfit
from hat.units.sides import Use


def change_along(
    dim: int, uses: Iterable[Use], shape: torch.Size, first: Mapping[Gate, int], counts: Tensor
) -> Change | None:
    """The change of one dimension of a parameter; None if the dimension stays as it is.

    Args:
        dim: the dimension, 0 or 1.
        uses: the gates along the parameter, and how the parameter lies along each.
        shape: the shape of the parameter.
        first: the number of every gate's first unit.
        counts: [units] int64 through all gates, see `hat.resizing.fitting`.

    Raises:
        Unfit: the groups of a grouped convolution would have different lengths.
    """
    uses = [use for use in uses if use[1].dim == dim]
    if not uses:
        return None
    groups = uses[0][1].groups if dim else 1
    units = _units(uses, first, shape[dim] * groups)
    if groups > 1 and shape[1] == 1:  # depthwise: the layer's number of groups changes instead
        _check_depthwise(units, uses[0][1].module, counts)
        return None
    layout = Layout(torch.Size((groups, shape[dim])), units.view(groups, -1))
    if bool((layout.counted(counts) == 1).all()):
        return None
    places, copies = layout.index(1, counts)
    return Change(dim, shape[dim], places, copies > 0)


def places_of(along: Along, gate: Gate) -> Tensor:
    """[units * repeat] int64, the indices of the dimension that belong to unit 0, then to unit 1, ..."""
    return torch.arange(gate.units * along.repeat) if along.places is None else along.places.cpu()


def _check_depthwise(units: Tensor, module: Any, counts: Tensor) -> None:
    """Refuse a depthwise convolution with several filters for each unit, if one of its units goes or others join.

    Raises:
        Unfit: names the units.
    """
    one_each = module.weight.shape[0] == len(units)
    if not one_each and bool((counts[units.clamp(min=0)] != 1).any()):
        raise Unfit(units[units >= 0].unique())


def relaid(
    uses: Iterable[Use], first: Mapping[Gate, int], shape: torch.Size, counts: Tensor
) -> list[tuple[Gate, Along, Along]]:
    """The uses of a parameter that get other places (see `Along.places`) or another number of groups.

    Args:
        uses: the gates along the parameter, and how the parameter lies along each.
        first: the number of every gate's first unit.
        shape: the shape of the parameter.
        counts: [units] int64 through all gates, see `hat.resizing.fitting`.

    Returns:
        For each such use: the gate, the use before, the use after.
    """
    relaid_uses = []
    if len(shape) > 1 and shape[1] == 1:  # depthwise
        for gate, along in uses:
            if along.dim and along.groups > 1:
                groups = int(counts[first[gate] : first[gate] + gate.units].sum()) * along.repeat
                relaid_uses.append((gate, along, along._replace(groups=groups)))
    uses_with_places = [use for use in uses if use[1].places is not None]
    for dim in {along.dim for _, along in uses_with_places}:
        uses_of_dim = [use for use in uses_with_places if use[1].dim == dim]
        length = shape[dim] * (uses_of_dim[0][1].groups if dim else 1)
        layout = Layout(torch.Size((length,)), _units(uses_of_dim, first, length))
        units = layout.resized(counts).units
        starts = counts.cumsum(0) - counts
        for gate, along in uses_of_dim:
            first_new = int(starts[first[gate]])
            end_new = first_new + int(counts[first[gate] : first[gate] + gate.units].sum())
            places = ((units >= first_new) & (units < end_new)).nonzero().flatten()
            places = places[units[places].argsort(stable=True)]
            relaid_uses.append((gate, along, along._replace(places=places)))
    return relaid_uses


def _units(uses: Iterable[Use], first: Mapping[Gate, int], length: int) -> Tensor:
    """[length] int64, the number of the unit that every index belongs to; -1 for none."""
    units = torch.full((length,), -1)
    for gate, along in uses:
        numbers = torch.arange(first[gate], first[gate] + gate.units)
        units[places_of(along, gate)] = numbers.repeat_interleave(along.repeat)
    return units
