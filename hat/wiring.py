"""Which units may change places: those of a gate of which it is known what meets them, all of it theirs alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from hat.chain import Chain
from hat.gate import Gate
from hat.locks import Use, owners
from hat.per_task import PerTask

if TYPE_CHECKING:
    from hat.model import HATModel


def movable(model: HATModel) -> list[Gate]:
    """The gates whose units may change places with each other."""
    gates = list(model.gates.values())
    chained = _complete_by_chain(model)
    known = [gate for gate in gates if gate in chained or (gate.complete and model.outputs is not None)]
    used, shared = owners(model), _shared(gates)
    return [gate for gate in known if gate not in shared and _is_alone(gate, used) and segment(gate) > 1]


def segment(gate: Gate) -> int:
    """How many neighbouring units may change places with each other: all, or those of a convolution's group."""
    length = gate.units
    for member in gate.members:
        groups = getattr(member.module, "groups", 1)
        if groups > 1 and member.name == "weight" and not _depthwise(gate, member.module):
            length = math.gcd(length, gate.units // groups) if gate.units % groups == 0 else 1
    return length


def _complete_by_chain(model: HATModel) -> set[Gate]:
    """The gates of a body that is a chain, applied as it was wired, which nothing outside of the chain has.

    A chain inside of another module says nothing: that module may take it apart.
    """
    chain = model.body
    if not isinstance(chain, Chain) or not model.reads_features_alone:
        return set()
    found = {gate for gate, complete in chain.complete().items() if complete}
    if chain.tail is not None and chain.tail.gate is not model.outputs:
        found.discard(chain.tail.gate)
    return found


def _shared(gates: Sequence[Gate]) -> set[Gate]:
    """The gates that share a dimension of a parameter with another one."""
    found: dict[tuple[Tensor, int], set[Gate]] = {}
    for gate in gates:
        for member in gate.members:
            if member.parameter is not None:
                found.setdefault((member.parameter, member.dim), set()).add(gate)
    return {gate for sharing in found.values() if len(sharing) > 1 for gate in sharing}


def _is_alone(gate: Gate, used: Mapping[Tensor, set[Use]]) -> bool:
    """What lies along the axis are parameters, not computed from others, and lies along it wherever it is used."""
    along: dict[tuple[Tensor, int], set[Use]] = {}
    layouts: dict[tuple[Tensor, int], set[tuple[int, int]]] = {}
    for member in gate.members:
        parameter = member.parameter
        if isinstance(member.module, PerTask):
            return False
        if member.name not in member.module._parameters or (parameter is not None and parameter not in used):
            return False
        if parameter is None:
            continue
        along.setdefault((parameter, member.dim), set()).add((member.module, member.name))
        layouts.setdefault((parameter, member.dim), set()).add((member.repeat, member.groups))
    everywhere = all(used[parameter] <= known for (parameter, _), known in along.items())
    return everywhere and all(len(found) == 1 for found in layouts.values())


def _depthwise(gate: Gate, module: nn.Module) -> bool:
    """Each unit has a group of its own and is its own input: its filter moves along."""
    dims = {member.dim for member in gate.members if member.module is module and member.name == "weight"}
    return dims == {0, 1} and getattr(module, "groups", 1) == gate.units
