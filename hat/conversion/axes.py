"""Gates for the units that an analysis has found, and what lies along them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hat.conversion.units import Units, narrowed
from hat.conversion.values import Claim
from hat.units.gate import Gate


@dataclass
class Axes:
    """The gates of a network.

    Attributes:
        gates: by name.
        _place: [ids] the unit of every class, counted through all gates in order; -1 for what is no unit.
    """

    gates: dict[str, Gate]
    _units: Units
    _place: Tensor

    def index(self, ids: Tensor) -> Tensor:
        """The unit of every id, counted through all gates in order; -1 for what belongs to none."""
        return torch.where(ids > 0, self._place[self._units.find(ids.clamp(min=0))], -1)

    def within(self, ids: Tensor) -> tuple[list[Gate], Tensor]:
        """The gates that have these, and the unit of every id, counted through those; their number for none."""
        index, first = self.index(ids), 0
        found, out = [], torch.full_like(index, -1)
        used = 0
        for gate in self.gates.values():
            here = (index >= first) & (index < first + gate.units)
            if here.any():
                out[here] = index[here] - first + used
                found.append(gate)
                used += gate.units
            first += gate.units
        return found, torch.where(out < 0, used, out)


def find_axes(units: Units, claims: Sequence[Claim], gated: Iterable[Tensor]) -> Axes:
    """A gate for every set of units that lie along the same dimensions of the same parameters.

    Args:
        units: the ids.
        claims: what lies along units, in the order of the graph.
        gated: the labels of every value that is gated.
    """
    named = [claim.ids for claim in claims]
    if not named:
        return Axes({}, units, torch.empty(0, dtype=torch.int64))
    every = torch.cat(
        [ids.clamp(min=0).flatten() for ids in (*named, *(narrowed(labels)[0] for labels in gated))]
    ).unique()
    classes = units.find(every[every > 0]).unique()
    marks = [(ids[ids > 0], torch.full((int((ids > 0).sum()),), number)) for number, ids in enumerate(named)]
    signature, segment = units.group(classes, marks), units.segments(classes)
    first = _first_places(units, classes, named)
    gates: dict[str, Gate] = {}
    place = torch.full((units.count,), -1, dtype=torch.int64)
    used = 0
    order = {number: int(first[signature == number].amin()) for number in signature.unique().tolist()}
    for number in sorted(order, key=order.__getitem__):
        members = classes[signature == number]
        members = members[first[signature == number].argsort()]
        place[members] = torch.arange(used, used + len(members))
        used += len(members)
        gates[_name(order[number], claims, gates)] = Gate(len(members), segments=_segments(members, classes, segment))
    return Axes(gates, units, place)


def _first_places(units: Units, classes: Tensor, claims: Sequence[Tensor]) -> Tensor:
    """[N] a number that sorts classes by where they first appear in the claims, counted through all of them."""
    every = torch.cat([*(ids.clamp(min=0) for ids in claims), classes])  # those in no claim come last
    first = torch.full((units.count,), len(every))
    first.scatter_reduce_(0, units.find(every), torch.arange(len(every)), "amin")
    return first[classes]


def _segments(members: Tensor, classes: Tensor, segment: Tensor) -> Tensor | None:
    numbers = segment[torch.searchsorted(classes, members)]
    return None if (numbers == numbers[0]).all() else numbers


def _name(first: int, claims: Sequence[Claim], taken: Iterable[str]) -> str:
    """That of the first layer that makes the units, whose first place is this."""
    name = "units"
    for claim in claims:
        if first < len(claim.ids):
            name = (claim.module or claim.name).replace(".", "_")
            break
        first -= len(claim.ids)
    count = sum(other == name or other.startswith(f"{name}__") for other in taken)
    return f"{name}__{count + 1}" if count else name


def attach(axes: Axes, claim: Claim, module: nn.Module) -> None:
    """Tell the gates what lies along them."""
    index, first = axes.index(claim.ids), 0
    for gate in axes.gates.values():
        places = ((index >= first) & (index < first + gate.units)).nonzero().flatten()
        if len(places):
            places = places[(index[places]).argsort(stable=True)]
            whole = len(places) == len(index) and torch.equal(places, torch.arange(len(places)))
            repeat = len(places) // gate.units
            given = None if whole else places
            gate.attach(module, claim.name, claim.dim, repeat=repeat, groups=claim.groups, places=given)
        first += gate.units
