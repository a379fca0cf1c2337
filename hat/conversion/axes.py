"""The gates for the units that an analysis has found, and the parameters that lie along the gates.

Two units belong to one gate if the same claims contain them, equally often. In the example of
`hat.conversion.analysis`, units 1 and 2 are both in the claims of conv.weight 0, conv.bias 0, inner.weight 1,
inner.weight 0 and inner.bias 0, and each is four times in the claim of linear.weight 1. So the two are one gate. Units
19, 20 and 21, in the claims of linear.weight 0 and linear.bias 0, are another gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hat.conversion.tables import SharedParameter
from hat.conversion.units import Units, narrowed
from hat.conversion.values import Claim
from hat.units.gate import Gate


@dataclass
class Axes:
    """The gates of a network.

    Attributes:
        gates: the gates by name.
        _units: the ids.
        _place: [ids] int64, for every id that names a class the number of its unit, counted through all gates in
            order; -1 for other ids.
    """

    gates: dict[str, Gate]
    _units: Units
    _place: Tensor

    def index(self, ids: Tensor) -> Tensor:
        """The number of the unit of every id, counted through all gates in order; -1 if the id has no unit."""
        return torch.where(ids > 0, self._place[self._units.find(ids.clamp(min=0))], -1)

    def within(self, ids: Tensor) -> tuple[list[Gate], Tensor]:
        """The gates to which the ids belong, and the number of every id's unit, counted through these gates only.

        An id without a unit gets the number of units of these gates.
        """
        index, first = self.index(ids), 0
        gates, numbers = [], torch.full_like(index, -1)
        count = 0
        for gate in self.gates.values():
            of_gate = (index >= first) & (index < first + gate.units)
            if of_gate.any():
                numbers[of_gate] = index[of_gate] - first + count
                gates.append(gate)
                count += gate.units
            first += gate.units
        return gates, torch.where(numbers < 0, count, numbers)


def find_axes(units: Units, claims: Sequence[Claim], gated: Iterable[Tensor]) -> Axes:
    """A gate for every set of units that lie along the same dimensions of the same parameters.

    Args:
        units: the ids.
        claims: the dimensions of parameters that lie along units, in the order of the graph.
        gated: the labels of every value that is gated.
    """
    ids_of_claims = [claim.ids for claim in claims]
    if not ids_of_claims:
        return Axes({}, units, torch.empty(0, dtype=torch.int64))
    all_ids = torch.cat(
        [ids.clamp(min=0).flatten() for ids in (*ids_of_claims, *(narrowed(labels)[0] for labels in gated))]
    ).unique()
    classes = units.find(all_ids[all_ids > 0]).unique()
    marks = [(ids[ids > 0], torch.full((int((ids > 0).sum()),), number)) for number, ids in enumerate(ids_of_claims)]
    signature, segment = units.group(classes, marks), units.segments(classes)
    first = _first_places(units, classes, ids_of_claims)
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
    """[N] the first place of every class, counted through the ids of all claims."""
    all_ids = torch.cat([*(ids.clamp(min=0) for ids in claims), classes])  # classes without a claim come last
    first = torch.full((units.count,), len(all_ids))
    first.scatter_reduce_(0, units.find(all_ids), torch.arange(len(all_ids)), "amin")
    return first[classes]


def _segments(members: Tensor, classes: Tensor, segment: Tensor) -> Tensor | None:
    numbers = segment[torch.searchsorted(classes, members)]
    return None if (numbers == numbers[0]).all() else numbers


def _name(first: int, claims: Sequence[Claim], taken: Iterable[str]) -> str:
    """The name of a gate: the name of the layer with the first claim that contains one of its units."""
    name = "units"
    for claim in claims:
        if first < len(claim.ids):
            name = (claim.module or claim.name).replace(".", "_")
            break
        first -= len(claim.ids)
    count = sum(taken_name == name or taken_name.startswith(f"{name}__") for taken_name in taken)
    return f"{name}__{count + 1}" if count else name


def attach(axes: Axes, claim: Claim, module: nn.Module) -> None:
    """Tell the gates that a dimension of a parameter of `module` lies along them."""
    index, first = axes.index(claim.ids), 0
    for gate in axes.gates.values():
        places = ((index >= first) & (index < first + gate.units)).nonzero().flatten()
        if len(places):
            places = places[(index[places]).argsort(stable=True)]
            in_order = len(places) == len(index) and torch.equal(places, torch.arange(len(places)))
            repeat = len(places) // gate.units
            given = None if in_order else places
            table = claim.dim == 1 and isinstance(module, nn.Embedding | SharedParameter)
            gate.attach(module, claim.name, claim.dim, repeat=repeat, groups=claim.groups, places=given, table=table)
        first += gate.units
