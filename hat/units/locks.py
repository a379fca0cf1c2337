"""Which weights may move: the lock of every shared parameter, read from the gates that the parameter lies along.

Example: three linear layers with a gate behind each of the first two, and a finished task with these masks:

    first   Linear(2, 3), gate a, mask [1, 0, 1]
    second  Linear(3, 2), gate b, mask [1, 0]
    third   the head, along no gate

    first.weight [3, 2]     rows along a. The inputs belong to no gate, so the rows 0 and 2 are locked.
    second.weight [2, 3]    rows along b, columns along a. Locked are [0, 0] and [0, 2], where both units are used.
    first.bias, second.bias locked where the unit is used.

The rate of second.weight[i, j], how far it may still move, is max(b.free[i], a.free[j]): 0 if both units are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from hat.units.along import Owner
from hat.units.blocks import Sides
from hat.units.gate import Gate
from hat.units.per_task import PerTask, per_task
from hat.units.sides import sides_of, uses_of
from hat.units.wired import Wired
from hat_kernels import Lock


def gates(body: nn.Module) -> dict[str, Gate]:
    """The gates of a network by name, every gate once, in the order of the modules."""
    return {name: module for name, module in body.named_modules() if isinstance(module, Gate)}


def sides(body: nn.Module, free: Mapping[Gate, Tensor] | None = None) -> dict[Tensor, Sides]:
    """The units along every shared parameter that lies along a gate.

    A parameter of a module outside `body` is included if a gate of `body` knows it. A parameter is left out if it lies
    along no gate, or if one of the modules that use it knows no gate. A per-task parameter is left out too, because
    nothing needs to lock it.

    Several modules may use one parameter (tied weights). The parameter keeps only what all uses know:

    - If one use knows no gate of its inputs, `columns` is None.
    - If one use is a table, `rows` is None, because a table is read row by row.
    - If both are true, the parameter is left out, because no rate would be safe for both uses.

    Args:
        body: the network.
        free: [units] in [0, 1] of every gate; by default `Gate.free`, see `sides_of`.
    """
    sides_by_parameter: dict[Tensor, Sides] = {}
    dims_by_parameter: dict[Tensor, dict[Owner, set[int]]] = {}
    for (module, name), uses in uses_of(gates(body).values()).items():
        tensor = None if isinstance(module, PerTask) else module._parameters.get(name)
        if tensor is None:  # no parameter, or a per-task one, which needs no lock
            continue
        sides = sides_of(uses, tensor.shape, free)
        before = sides_by_parameter.get(tensor)
        sides_by_parameter[tensor] = sides if before is None else before.meet(sides)
        dims_by_parameter.setdefault(tensor, {})[module, name] = {along.dim for _, along in uses}
    for parameter, all_owners in owners(body.modules()).items():
        if parameter in sides_by_parameter and not all_owners <= dims_by_parameter[parameter].keys():
            del sides_by_parameter[parameter]
    first = first_layers(body)
    for parameter, sides in list(sides_by_parameter.items()):
        dims = set.intersection(*dims_by_parameter[parameter].values())  # the dimensions that every use knows
        if any(owner in first for owner, _ in dims_by_parameter[parameter]):
            dims.discard(1)
        if not dims or (sides.groups > 1 and 0 not in dims):  # columns of groups do not lock without their rows
            del sides_by_parameter[parameter]
        elif 1 not in dims:
            sides_by_parameter[parameter] = sides._replace(columns=None, groups=1)
        elif 0 not in dims:
            sides_by_parameter[parameter] = sides._replace(rows=None, groups=1)
    return sides_by_parameter


def first_layers(body: nn.Module) -> set[nn.Module]:
    """The layers that have inputs which no gate knows.

    A layer is one of them if its `fed_unknown` is true. So is a layer of a `Wired` body that a module outside that body
    uses too, because the body does not know the inputs that come from outside.
    """
    wired = {module for part in body.modules() if isinstance(part, Wired) for module in part.modules()}
    outside = {child for parent in body.modules() if parent not in wired for child in parent.children()}
    layers = {module: module.fed_unknown for module in body.modules() if hasattr(module, "fed_unknown")}
    return {layer for layer, fed_unknown in layers.items() if fed_unknown or layer in wired & outside}


def owners(modules: Iterable[nn.Module]) -> dict[Tensor, set[Owner]]:
    """The owners of every parameter: those of these modules that have the parameter, and its names there."""
    owners_by_parameter: dict[Tensor, set[Owner]] = {}
    for owner in modules:
        for name, parameter in owner.named_parameters(recurse=False):
            owners_by_parameter.setdefault(parameter, set()).add((owner, name))
    return owners_by_parameter


def locks(body: nn.Module) -> dict[Tensor, Lock]:
    """The lock of every shared parameter that lies along a gate; see `sides`."""
    return {parameter: side.lock for parameter, side in sides(body).items()}


def locked_elements(lock: Lock, parameter: Tensor) -> int:
    """How many elements of a parameter have rate 0, which is where a locked row meets a locked column.

    The elements are counted without making a tensor of rates.
    """
    shape = tuple(parameter.shape) or (1,)
    rows = _locked(lock.rows, lock.row_repeat, shape[0], lock.groups)
    if lock.columns is None:
        return int(rows.sum()) * (parameter.numel() // shape[0])
    columns = _locked(lock.columns, lock.column_repeat, shape[1] * lock.groups, lock.groups)
    return int((rows * columns).sum()) * (parameter.numel() // (shape[0] * shape[1]))


def _locked(free: Tensor | None, repeat: int, length: int, groups: int) -> Tensor:
    """[groups] how many rows or columns of every group are locked: all of them if the dimension has no units."""
    if free is None:
        return torch.full((groups,), length // groups)
    return (free == 0).repeat_interleave(repeat).view(groups, -1).sum(1).cpu()


def unlocked(body: nn.Module) -> dict[str, nn.Parameter]:
    """The shared parameters of a network that lie along no gate, by name. They are frozen when the first task ends."""
    not_frozen = {id(gate.embedding) for gate in gates(body).values()} | {id(p) for p in sides(body)}
    not_frozen |= {id(p) for module in per_task(body).values() for p in module.parameters(recurse=False)}
    return {name: p for name, p in body.named_parameters() if id(p) not in not_frozen}


def frozen_lock(parameter: Tensor) -> Lock:
    """A lock that lets nothing of `parameter` move."""
    return Lock(rows=torch.zeros(1, device=parameter.device), row_repeat=parameter.shape[0] if parameter.dim() else 1)
