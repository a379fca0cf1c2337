"""What may move: the lock of every shared parameter, read from the gates that it lies along."""

from __future__ import annotations

from collections.abc import Mapping

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
    """The gates of a network by name, each once, in the order of its modules."""
    return {name: module for name, module in body.named_modules() if isinstance(module, Gate)}


def sides(body: nn.Module, free: Mapping[Gate, Tensor] | None = None) -> dict[Tensor, Sides]:
    """The units along every parameter that lies along a gate's axis, as of now or of other free units, see `sides_of`.

    A parameter of a module outside `body` that a gate of `body` knows is included; a parameter along no gate is not,
    nor one that another module uses along none. Where several modules use it and one of them knows no gate of its
    inputs, nothing is known of the columns; where for one of them it is a table, which is met row by row whoever reads
    the rows elsewhere, nothing of the rows. Where both is so it is left out: no rate is low enough for both. What every
    task has its own of is included nowhere: nothing locks it.
    """
    found: dict[Tensor, Sides] = {}
    known_dims: dict[Tensor, dict[Owner, set[int]]] = {}
    for (module, name), uses in uses_of(gates(body).values()).items():
        tensor = None if isinstance(module, PerTask) else module._parameters.get(name)
        if tensor is None:  # there is none, or every task has its own, which needs no lock
            continue
        sides = sides_of(uses, tensor.shape, free)
        found[tensor] = found[tensor].meet(sides) if tensor in found else sides
        known_dims.setdefault(tensor, {})[module, name] = {along.dim for _, along in uses}
    for parameter, elsewhere in owners(body).items():
        if parameter in found and not elsewhere <= known_dims[parameter].keys():
            del found[parameter]
    first = first_layers(body)
    for parameter, known in list(found.items()):
        everywhere = set.intersection(*known_dims[parameter].values())  # what one use does not know holds for all
        if any(owner in first for owner, _ in known_dims[parameter]):
            everywhere.discard(1)
        if not everywhere or (known.groups > 1 and 0 not in everywhere):  # the columns of groups do not lock alone
            del found[parameter]
        elif 1 not in everywhere:
            found[parameter] = known._replace(columns=None, groups=1)
        elif 0 not in everywhere:
            found[parameter] = known._replace(rows=None, groups=1)
    return found


def first_layers(body: nn.Module) -> set[nn.Module]:
    """The layers that have inputs which no gate knows.

    They say so by `fed_unknown`, or a `Wired` body knows the gate of their inputs, and a module outside of it uses them
    too.
    """
    wired = {module for part in body.modules() if isinstance(part, Wired) for module in part.modules()}
    outside = {child for parent in body.modules() if parent not in wired for child in parent.children()}
    layers = {module: module.fed_unknown for module in body.modules() if hasattr(module, "fed_unknown")}
    return {layer for layer, fed_unknown in layers.items() if fed_unknown or layer in wired & outside}


def owners(module: nn.Module) -> dict[Tensor, set[Owner]]:
    """All that has a parameter, of every parameter."""
    found: dict[Tensor, set[Owner]] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            found.setdefault(parameter, set()).add((owner, name))
    return found


def locks(body: nn.Module) -> dict[Tensor, Lock]:
    """The lock of every parameter that lies along a gate's axis; see `sides`."""
    return {parameter: side.lock for parameter, side in sides(body).items()}


def locked_elements(lock: Lock, parameter: Tensor) -> int:
    """How many elements have rate 0: where a locked row meets a locked column, counted without a tensor of rates."""
    shape = tuple(parameter.shape) or (1,)
    rows = _locked(lock.rows, lock.row_repeat, shape[0], lock.groups)
    if lock.columns is None:
        return int(rows.sum()) * (parameter.numel() // shape[0])
    columns = _locked(lock.columns, lock.column_repeat, shape[1] * lock.groups, lock.groups)
    return int((rows * columns).sum()) * (parameter.numel() // (shape[0] * shape[1]))


def _locked(free: Tensor | None, repeat: int, length: int, groups: int) -> Tensor:
    """[groups] how many of these rows or columns are locked; a side without units loosens nothing."""
    if free is None:
        return torch.full((groups,), length // groups)
    return (free == 0).repeat_interleave(repeat).view(groups, -1).sum(1).cpu()


def unlocked(body: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a network that lie along no gate and are no task's own: the first task's end freezes them."""
    own = {id(gate.embedding) for gate in gates(body).values()} | {id(p) for p in sides(body)}
    own |= {id(p) for module in per_task(body).values() for p in module.parameters(recurse=False)}
    return {name: p for name, p in body.named_parameters() if id(p) not in own}


def frozen_lock(parameter: Tensor) -> Lock:
    """A lock that lets nothing of `parameter` move."""
    return Lock(rows=torch.zeros(1, device=parameter.device), row_repeat=parameter.shape[0] if parameter.dim() else 1)
