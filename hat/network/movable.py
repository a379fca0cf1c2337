"""Which units may change places: those of a gate of which it is known what meets them, all of it theirs alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hat.network.network import Network
from hat.units.along import Along, Owner
from hat.units.gate import Gate
from hat.units.locks import owners
from hat.units.per_task import PerTask
from hat.units.wired import Wired


def movable(model: Network) -> list[Gate]:
    """The gates whose units may change places with each other."""
    return [gate for gate in _alone(model, _complete_by_body(model)) if max(map(len, segments(gate))) > 1]


def resizable(model: Network) -> set[Gate]:
    """The gates of which units may go, or which others may join: all that meets them is known, and where heads do."""
    body = model.body
    seen = body.seen_by_heads() if isinstance(body, Wired) and model.reads_features_alone else set()
    return set(_alone(model, _complete_by_body(model) | seen))


def _alone(model: Network, known: set[Gate]) -> list[Gate]:
    """Those of which all is known and that lie along what they lie along by themselves, in the order of the model."""
    gates = list(model.gates.values())
    used, shared = owners(model), _shared(gates)
    found = [gate for gate in gates if gate in known or (gate.complete and model.outputs is not None)]
    return [gate for gate in found if gate not in shared and _is_alone(gate, used)]


def segments(gate: Gate) -> list[Tensor]:
    """The places of units that may change places with each other: all, or those of a head, or of a group."""
    length = gate.units
    for member in gate.members:
        if (groups := groups_along(gate, member)) > 1:
            length = math.gcd(length, gate.units // groups) if gate.units % groups == 0 else 1
    places = torch.arange(gate.units)
    if gate.segments is None:
        return list(places.split(length))
    numbers = gate.segments.cpu() * gate.units + places // length
    return [places[numbers == number] for number in numbers.unique()]


def _complete_by_body(model: Network) -> set[Gate]:
    """The gates of a body that knows them, applied as it was wired, which nothing outside of the body has.

    A chain inside of another module says nothing: that module may take it apart.
    """
    body = model.body
    if not isinstance(body, Wired) or not model.reads_features_alone:
        return set()
    found = {gate for gate, complete in body.complete().items() if complete}
    if body.tail is not None and body.tail.gate is not model.outputs:
        found.discard(body.tail.gate)
    return found


def _shared(gates: Sequence[Gate]) -> set[Gate]:
    """The gates that share a dimension of a parameter with another one."""
    found: dict[tuple[Tensor, int], set[Gate]] = {}
    for gate in gates:
        for member in gate.members:
            if member.parameter is not None and member.places is None:  # places are one gate's alone
                found.setdefault((member.parameter, member.dim), set()).add(gate)
    return {gate for sharing in found.values() if len(sharing) > 1 for gate in sharing}


def _is_alone(gate: Gate, used: Mapping[Tensor, set[Owner]]) -> bool:
    """What lies along the axis are parameters, not computed from others, and lies along it wherever it is used."""
    along: dict[tuple[Tensor, int], set[Owner]] = {}
    layouts: dict[tuple[Tensor, int], set[tuple[int, int, int]]] = {}
    for member in gate.members:
        parameter = member.parameter
        if isinstance(member.module, PerTask):  # it moves along, all its tasks' values
            continue
        if member.name not in member.module._parameters or (parameter is not None and parameter not in used):
            return False
        if parameter is None:
            continue
        along.setdefault((parameter, member.dim), set()).add((member.module, member.name))
        layouts.setdefault((parameter, member.dim), set()).add((member.repeat, member.groups, id(member.places)))
    everywhere = all(used[parameter] <= known for (parameter, _), known in along.items())
    return everywhere and all(len(found) == 1 for found in layouts.values())


def groups_along(gate: Gate, member: Along) -> int:
    """Into how many groups of units, one behind the other, a convolution or a norm takes a gate apart."""
    if member.places is not None or member.name != "weight" or _is_depthwise(gate, member.module):
        return 1
    found: int = getattr(member.module, "groups", getattr(member.module, "num_groups", 1))
    return found


def _is_depthwise(gate: Gate, module: nn.Module) -> bool:
    """Each unit has a group of its own and is its own input: its filter moves along."""
    dims = {member.dim for member in gate.members if member.module is module and member.name == "weight"}
    return dims == {0, 1} and getattr(module, "groups", 1) == gate.units
