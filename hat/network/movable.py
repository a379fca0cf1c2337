"""Which units may change places, and which gates may get another number of units.

The units of a gate may change places if two conditions hold:

- The gate is complete: every parameter that reads or writes its units is known.
- The gate is alone: no other gate lies along the same dimension of these parameters, and no other layer uses them.

Example: `conv1 = Conv2d(3, 8)`, a gate of 8 units, then `conv2 = Conv2d(8, 16, groups=2)`.

    along the gate      conv1.weight and conv1.bias along dimension 0, conv2.weight along dimension 1
    conv2 has 2 groups  outputs 0 to 7 of conv2 read units 0 to 3, outputs 8 to 15 read units 4 to 7
    `segments(gate)`    [[0, 1, 2, 3], [4, 5, 6, 7]]: units change places within a segment only

If the network also computed `h[:, 0] * 2` on the gated activations `h` in code of its own, the gate would not be
complete: after a move, `h[:, 0]` would be another unit. If `conv1` had two gates, one for each of two branches, neither
would be alone.
"""

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
    """The gates that may lose units or get more: complete and alone.

    A gate also counts as complete here if only heads read its units besides, and it is known which of the features
    the units are.
    """
    body = model.body
    read_by_heads = body.seen_by_heads() if isinstance(body, Wired) and model.reads_features_alone else set()
    return set(_alone(model, _complete_by_body(model) | read_by_heads))


def _alone(model: Network, complete: set[Gate]) -> list[Gate]:
    """The gates that are complete and alone, in the order of the model.

    Args:
        model: the network.
        complete: gates that are complete. A gate whose attribute `complete` is set counts, too, if it is known which
            gate's units the features are.
    """
    gates = list(model.gates.values())
    owners_of, shared = owners(module for _, module in model.named_modules_in_use()), _shared(gates)
    shared |= _read_by_finished_heads(model)
    known_gates = [gate for gate in gates if gate in complete or (gate.complete and model.outputs is not None)]
    return [gate for gate in known_gates if gate not in shared and _is_alone(gate, owners_of)]


def segments(gate: Gate) -> list[Tensor]:
    """The segments of a gate, each as the places of its units. Units change places within their segment only.

    All units are one segment, unless there are groups of a convolution or norm, or heads of attention.
    """
    length = gate.units
    for member in gate.members:
        if (groups := groups_along(gate, member)) > 1:
            length = math.gcd(length, gate.units // groups) if gate.units % groups == 0 else 1
    places = torch.arange(gate.units)
    if gate.segments is None:
        return list(places.split(length))
    numbers = gate.segments * gate.units + places // length
    return [places[numbers == number] for number in numbers.unique()]


def _complete_by_body(model: Network) -> set[Gate]:
    """The gates that the body knows to be complete.

    Only a `Wired` body knows this, and only if nothing but heads reads its answer. A `Wired` module inside of another
    body says nothing, because the other modules may use its parts. The gate at the end of the body counts only if it
    is known that its units are the features.
    """
    body = model.body
    if not isinstance(body, Wired) or not model.reads_features_alone:
        return set()
    complete_gates = {gate for gate, complete in body.complete().items() if complete}
    if body.tail is not None and body.tail is not model.outputs:
        complete_gates.discard(body.tail)
    return complete_gates


def _shared(gates: Sequence[Gate]) -> set[Gate]:
    """The gates that share a dimension of a parameter with another gate."""
    gates_by_dimension: dict[tuple[Tensor, int], set[Gate]] = {}
    for gate in gates:
        for member in gate.members:
            if member.parameter is not None and member.places is None:  # no two gates lie at the same `places`
                gates_by_dimension.setdefault((member.parameter, member.dim), set()).add(gate)
    return {gate for gates_there in gates_by_dimension.values() if len(gates_there) > 1 for gate in gates_there}


def _read_by_finished_heads(model: Network) -> set[Gate]:
    """The gates along which a parameter lies that is also a parameter of the head of a finished task."""
    frozen_along_gates = {parameter for parameter in model.blocks() if id(parameter) in model.frozen.parameters}
    return {gate for gate in model.gates.values() for along in gate.members if along.parameter in frozen_along_gates}


def _is_alone(gate: Gate, owners_of: Mapping[Tensor, set[Owner]]) -> bool:
    """Whether the units of a gate are the only use of every parameter along its axis.

    Not so if a module computes the parameter from other parameters, or if a module uses the parameter without the gate
    along it, or with the gate along it in another way.

    Args:
        gate: the gate.
        owners_of: all modules that have each parameter, with its names there.
    """
    owners_along: dict[tuple[Tensor, int], set[Owner]] = {}
    layouts_along: dict[tuple[Tensor, int], set[tuple[int, int, int]]] = {}
    for member in gate.members:
        parameter = member.parameter
        if isinstance(member.module, PerTask):  # the values of all tasks move along
            continue
        if member.name not in member.module._parameters or (parameter is not None and parameter not in owners_of):
            return False
        if parameter is None:
            continue
        owners_along.setdefault((parameter, member.dim), set()).add((member.module, member.name))
        layouts_along.setdefault((parameter, member.dim), set()).add((member.repeat, member.groups, id(member.places)))
    everywhere = all(owners_of[parameter] <= owners_there for (parameter, _), owners_there in owners_along.items())
    return everywhere and all(len(layouts_there) == 1 for layouts_there in layouts_along.values())


def groups_along(gate: Gate, member: Along) -> int:
    """The number of groups of consecutive units into which a convolution or a norm divides a gate.

    1 for a depthwise convolution, because the filter of each unit moves with the unit.
    """
    if member.places is not None or member.name != "weight" or _is_depthwise(gate, member.module):
        return 1
    groups: int = getattr(member.module, "groups", getattr(member.module, "num_groups", 1))
    return groups


def _is_depthwise(gate: Gate, module: nn.Module) -> bool:
    """Whether a module is a depthwise convolution over the gate: every unit is a group of its own."""
    dims = {member.dim for member in gate.members if member.module is module and member.name == "weight"}
    return dims == {0, 1} and getattr(module, "groups", 1) == gate.units
