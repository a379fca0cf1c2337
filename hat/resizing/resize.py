"""Changing how many units a network has, in all of its parameters, buffers, heads and graphs at once.

Example: `linear1 = Linear(3, 4)`, a gate of 4 units, `linear2 = Linear(4, 2)`. With counts [1, 0, 1, 2], unit 1 goes
and a new unit joins behind unit 3.

    parameter         before   after    rows or columns, by old unit
    linear1.weight    [4, 3]   [4, 3]   0, 2, 3, new
    linear1.bias      [4]      [4]      0, 2, 3, new
    linear2.weight    [2, 4]   [2, 4]   0, 2, 3, new
    gate.embedding    [4]      [4]      0, 2, 3, new
    gate.masks        [T, 4]   [T, 4]   0, 2, 3, new; the mask of the new unit is 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hat.conversion.body import Converted
from hat.conversion.tables import SharedParameter
from hat.layers.gated_norm import GatedNorm
from hat.network.network import Network
from hat.resizing.fitting import first_units
from hat.resizing.fresh import fill_joined, fresh_head, fresh_stack
from hat.resizing.graph import resize_graph
from hat.resizing.lengths import actual_length, follow_layout, length_of, norms, set_length
from hat.resizing.parameters import change_along, relaid
from hat.units.change import Change, Changes, applied
from hat.units.composed import GatedAnywhere, SideBySide
from hat.units.gate import Gate
from hat.units.layout import Layout
from hat.units.per_task import PerTask
from hat.units.sides import uses_of
from hat_kernels.gradient_memory import release

_Changes = dict[Tensor, list[Change]]


@dataclass
class Resized:
    """What `resize` has changed.

    Attributes:
        changes: the changes of every parameter whose units have gone or joined.
        before: for each of these parameters, a tensor of its former shape.
    """

    changes: Changes
    before: dict[Tensor, Tensor]


@torch.no_grad()
def resize(model: Network, counts: Tensor) -> Resized:
    """Let units go and new units join, in place. Parameters stay the same objects.

    Args:
        model: the model. Parameters along no gate stay as they are.
        counts: [units] int64 through all gates, from `hat.resizing.fitting.fit`.

    Raises:
        Unfit: some units lie so that they cannot get these counts. The model is half-changed then: try on a copy.
    """
    gates = list(model.gates.values())
    first = first_units(gates)
    counts_of_gates = {gate: counts[first[gate] : first[gate] + gate.units] for gate in gates}
    lengths = {norm: length_of(norm) for norm in norms(model)}
    columns = _head_columns(model, first, counts)
    changes, stacks, relaid_uses = _changes(model, first, counts)
    if isinstance(model.body, Converted):
        resize_graph(model.body, counts)
    indices = _indices(model.body, counts_of_gates)
    before = {}
    for parameter, parameter_changes in changes.items():
        before[parameter] = parameter.data
        _replace(parameter, parameter_changes)
    for module, name, parameter_changes in stacks:
        current = getattr(module, name)
        before[current] = current.data
        _resize_stacks(module, name, parameter_changes)
        changes[current] = parameter_changes
    for gate, old, new in relaid_uses:
        gate.replace(old, new)
    for gate in gates:
        before[gate.embedding] = gate.embedding.data
        changes[gate.embedding] = _resize_gate(gate, counts_of_gates[gate])
    for module in model.body.modules():
        _resize_module(module)
    for owner, index in indices:
        owner.set_index(index)
    if columns is not None:
        _resize_heads(model, columns, changes, before)
    for norm, length in lengths.items():
        if isinstance(model.body, Converted):
            follow_layout(norm, model.body)
        if length_of(norm) != length:
            norm.keep_count(length, length_of(norm), model.tasks)
    fill_joined(model.body, changes)
    for parameter in changes:
        release(parameter)
    return Resized(changes, before)


def _changes(model: Network, first: dict[Gate, int], counts: Tensor) -> tuple[_Changes, list[Any], list[Any]]:
    """How parameters change.

    Args:
        model: the model.
        first: the number of every gate's first unit.
        counts: [units] int64 through all gates.

    Returns:
        The changes of every shared parameter; (module, name, changes) for every tensor of which each task has its own;
        and (gate, use before, use after) for every use that changes, see `hat.resizing.parameters.relaid`.
    """
    changes: _Changes = {}
    stacks: list[Any] = []
    relaid_uses: list[Any] = []
    for (module, name), uses in uses_of(first).items():
        is_per_task = isinstance(module, PerTask)
        parameter = getattr(module, name) if is_per_task else module._parameters.get(name)
        if parameter is None:
            continue
        relaid_uses += relaid(uses, first, parameter.shape, counts)
        if parameter in changes:
            continue
        changes_of_dims = [change_along(dim, uses, parameter.shape, first, counts) for dim in (0, 1)]
        parameter_changes = [change for change in changes_of_dims if change is not None]
        if parameter_changes and is_per_task:
            stacks.append((module, name, parameter_changes))
        elif parameter_changes:
            changes[parameter] = parameter_changes
    return changes, stacks, relaid_uses


def _replace(parameter: Tensor, changes: list[Change]) -> None:
    """Apply changes to a parameter and its gradient; new units get any values for now."""
    _set(parameter, applied(parameter.data, changes, fill=False).contiguous(), changes)


def _set(parameter: Tensor, values: Tensor, changes: list[Change]) -> None:
    """Give a parameter new values of another shape, and apply the changes to its gradient."""
    grad, parameter.grad = parameter.grad, None
    _give(parameter, values)
    parameter.grad = None if grad is None else applied(grad, changes)


def _give(parameter: Tensor, values: Tensor) -> None:
    """Give a parameter values of another shape.

    If a result of an earlier forward pass is still alive, autograd keeps the former shape for the next gradient. It
    lets go of the shape when the dtype changes. A gradient of the earlier pass itself cannot be computed any more, and
    the new version of the parameter says so.
    """
    parameter.data = values.new_empty(0, dtype=torch.float32 if values.dtype is not torch.float32 else torch.float64)
    parameter.data = values
    torch.autograd.graph.increment_version(parameter)


def _resize_stacks(module: PerTask, name: str, changes: list[Change]) -> None:
    """Apply changes to a tensor of which each task has its own, for all tasks."""
    for values, tasks in module.moved(name):
        resized = fresh_stack(module, name, values, tasks, changes)
        _set(values, resized, changes)


def _resize_module(module: nn.Module) -> None:
    """Set the attributes of a layer that say its sizes. Its parameters have their new shapes already."""
    weight = module._parameters.get("weight")
    if isinstance(module, nn.Linear) and weight is not None:
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd) and weight is not None:
        if module.groups > 1 and module.in_channels == module.out_channels == module.groups:  # depthwise
            module.groups = weight.shape[0]
        channels = weight.shape[0], weight.shape[1] * module.groups
        module.out_channels, module.in_channels = reversed(channels) if module.transposed else channels
    elif isinstance(module, nn.Embedding) and weight is not None:
        module.embedding_dim = weight.shape[1]
    elif isinstance(module, SharedParameter):
        missing = len(module.shape) - module.weight.dim()
        module.shape = torch.Size((*module.shape[:missing], *module.weight.shape))
    elif isinstance(module, GatedNorm):
        set_length(module, actual_length(module))


def _resize_gate(gate: Gate, counts: Tensor) -> list[Change]:
    """Resize the buffers and the embedding of a gate; returns the changes. New units draw their embedding."""
    places, copies = Layout(torch.Size((1, gate.units)), torch.arange(gate.units)[None]).index(1, counts)
    change = Change(0, gate.units, places, copies > 0)
    embedding = change(gate.embedding.data, fill=False)
    gate.rearrange(change)
    gate.embedding.grad = None
    _give(gate.embedding, torch.where(change.mask(embedding), gate.draw(), embedding))
    return [change]


def _indices(body: nn.Module, counts_of_gates: dict[Gate, Tensor]) -> list[tuple[SideBySide | GatedAnywhere, Tensor]]:
    """The new index of every `SideBySide` and `GatedAnywhere` in the body.

    Args:
        body: the body.
        counts_of_gates: [units] int64 for every gate.
    """
    owners: dict[SideBySide | GatedAnywhere, None] = {}
    for module in body.modules():
        owner = module if isinstance(module, GatedAnywhere) else module.__dict__.get("gate")
        if isinstance(owner, SideBySide | GatedAnywhere):
            owners[owner] = None
    return [(owner, _resized_index(owner.index, owner.gates, counts_of_gates)) for owner in owners]


def _resized_index(index: Tensor, gates: list[Gate], counts_of_gates: dict[Gate, Tensor]) -> Tensor:
    """The index of a `SideBySide` or `GatedAnywhere` after resizing.

    Args:
        index: the unit of every place, counted through `gates`. The number of all units stands for no unit.
        gates: the gates side by side.
        counts_of_gates: [units] int64 for every gate.
    """
    counts = torch.cat([counts_of_gates[gate] for gate in gates])
    units = torch.where(index.cpu() == len(counts), -1, index.cpu())
    resized = Layout(units.shape, units).resized(counts).units
    return torch.where(resized < 0, int(counts.sum()), resized)


def _head_columns(model: Network, first: dict[Gate, int], counts: Tensor) -> Change | None:
    """The change of the columns of the heads; None if they stay as they are."""
    if isinstance(model.body, Converted) and model.body.answer is not None:
        units = model.body.answer.units.flatten()
    elif model.outputs is not None:
        gate = model.outputs
        numbers = torch.arange(first[gate], first[gate] + gate.units)
        units = numbers.repeat_interleave(model.features // gate.units)
    else:
        return None
    layout = Layout(torch.Size((1, model.features)), units[None])
    if bool((layout.counted(counts) == 1).all()):
        return None
    places, copies = layout.index(1, counts)
    return Change(1, model.features, places, copies > 0)


def _resize_heads(model: Network, change: Change, changes: _Changes, before: dict[Tensor, Tensor]) -> None:
    """Apply the change of columns to all heads.

    Finished heads read nothing of new units. The head that is being learned draws weights for them.

    Args:
        model: the model.
        change: the change of the columns.
        changes: gets the changes of the heads' weights.
        before: gets the former weights.
    """
    model.features = change.places.numel()
    if isinstance(model.body, Converted):
        model.body.features = model.features
    for task, head in enumerate(model.heads):
        if not isinstance(head, nn.Linear):
            continue
        changes[head.weight], before[head.weight] = [change], head.weight.data
        _set(head.weight, change(head.weight.data), [change])
        head.in_features = model.features
        if model.learning and task == model.task:
            fresh_head(head, change)
