"""What becomes of a parameter whose units go or are joined by others."""

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
    """The change of one dimension of a parameter; None where it stays as it is.

    Args:
        dim: 0 or 1.
        uses: the gates along it, and how it lies along them.
        shape: of the parameter.
        first: the number of every gate's first unit.
        counts: [units], see `hat.resizing.fitting.fit`.

    Raises:
        Unfit: groups would differ in length.
    """
    uses = [use for use in uses if use[1].dim == dim]
    if not uses:
        return None
    groups = uses[0][1].groups if dim else 1
    units = _units(uses, first, shape[dim] * groups)
    if groups > 1 and shape[1] == 1:  # a group is a unit: how many there are, the layer knows
        _check_depthwise(units, uses[0][1].module, counts)
        return None
    layout = Layout(torch.Size((groups, shape[dim])), units.view(groups, -1))
    if bool((layout.counted(counts) == 1).all()):
        return None
    places, copies = layout.index(1, counts)
    return Change(dim, shape[dim], places, copies > 0)


def places_of(along: Along, gate: Gate) -> Tensor:
    """[units * repeat] the indices of unit 0, of unit 1, ..."""
    return torch.arange(gate.units * along.repeat) if along.places is None else along.places.cpu()


def _check_depthwise(units: Tensor, module: Any, counts: Tensor) -> None:
    """A filter a unit can go and come with its unit; several of one unit cannot."""
    one_each = module.weight.shape[0] == len(units)
    if not one_each and bool((counts[units.clamp(min=0)] != 1).any()):
        raise Unfit(units[units >= 0].unique())


def relaid(
    uses: Iterable[Use], first: Mapping[Gate, int], shape: torch.Size, counts: Tensor
) -> list[tuple[Gate, Along, Along]]:
    """What lies otherwise from now on: with other places, see `Along.places`, or another number of groups."""
    found = []
    if len(shape) > 1 and shape[1] == 1:  # a group is a unit
        for gate, along in uses:
            if along.dim and along.groups > 1:
                groups = int(counts[first[gate] : first[gate] + gate.units].sum()) * along.repeat
                found.append((gate, along, along._replace(groups=groups)))
    placed = [use for use in uses if use[1].places is not None]
    for dim in {along.dim for _, along in placed}:
        here = [use for use in placed if use[1].dim == dim]
        length = shape[dim] * (here[0][1].groups if dim else 1)
        layout = Layout(torch.Size((length,)), _units(here, first, length))
        units = layout.resized(counts).units
        starts = counts.cumsum(0) - counts
        for gate, along in here:
            begin = int(starts[first[gate]])
            end = begin + int(counts[first[gate] : first[gate] + gate.units].sum())
            places = ((units >= begin) & (units < end)).nonzero().flatten()
            places = places[units[places].argsort(stable=True)]
            found.append((gate, along, along._replace(places=places)))
    return found


def _units(uses: Iterable[Use], first: Mapping[Gate, int], length: int) -> Tensor:
    """[length] the number of the unit of every index, -1 for none."""
    units = torch.full((length,), -1)
    for gate, along in uses:
        numbers = torch.arange(first[gate], first[gate] + gate.units)
        units[places_of(along, gate)] = numbers.repeat_interleave(along.repeat)
    return units
