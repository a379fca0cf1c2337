"""Changing how many units a network has: of every parameter, buffer, head and graph that lies along them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hat.conversion.body import Converted
from hat.conversion.tables import SharedParameter
from hat.layers.attention import HATMultiheadAttention
from hat.layers.gated_norm import GatedNorm
from hat.network.network import Network
from hat.resizing.fitting import numbers
from hat.resizing.fresh import fill_joined, fresh_head, fresh_stack
from hat.resizing.graph import resize_graph
from hat.resizing.lengths import follow_layout, length_of, norms, own_length, set_length
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
    """What `resize` has done.

    Attributes:
        changes: of every parameter that has another shape.
        before: a tensor of its former shape, for each of them.
    """

    changes: Changes
    before: dict[Tensor, Tensor]


@torch.no_grad()
def resize(model: Network, counts: Tensor) -> Resized:
    """Let units go, and others join, everywhere; in place, parameters stay the same objects.

    Args:
        model: any; what is not in its gates' axes stays as it is.
        counts: [units] int64 through all gates, as `hat.resizing.fitting.fit` returns it.

    Raises:
        Unfit: somewhere units lie so that they cannot get these counts; the model is half-changed. Try on a copy.
    """
    gates = list(model.gates.values())
    first = numbers(gates)
    own = {gate: counts[first[gate] : first[gate] + gate.units] for gate in gates}
    lengths = {norm: length_of(norm) for norm in norms(model)}
    columns = _head_columns(model, first, counts)
    changes, stacks, placed = _changes(model, first, counts)
    if isinstance(model.body, Converted):
        resize_graph(model.body, counts)
    indices = _indices(model.body, own)
    before = {}
    for parameter, found in changes.items():
        before[parameter] = parameter.data
        _replace(parameter, found)
    for module, name, found in stacks:
        current = getattr(module, name)
        before[current] = current.data
        _resize_stacks(module, name, found)
        changes[current] = found
    for gate, old, new in placed:
        gate.replace(old, new)
    for gate in gates:
        before[gate.embedding] = gate.embedding.data
        changes[gate.embedding] = _resize_gate(gate, own[gate])
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
    """Of every parameter; of what every task has of its own: module, name, changes; and how they lie from now on."""
    changes: _Changes = {}
    stacks: list[Any] = []
    placed: list[Any] = []
    for (module, name), uses in uses_of(first).items():
        own = isinstance(module, PerTask)
        parameter = getattr(module, name) if own else module._parameters.get(name)
        if parameter is None:
            continue
        placed += relaid(uses, first, parameter.shape, counts)
        if parameter in changes:
            continue
        found = [change_along(dim, uses, parameter.shape, first, counts) for dim in (0, 1)]
        wanted = [change for change in found if change is not None]
        if wanted and own:
            stacks.append((module, name, wanted))
        elif wanted:
            changes[parameter] = wanted
    return changes, stacks, placed


def _replace(parameter: Tensor, changes: list[Change]) -> None:
    _set(parameter, applied(parameter.data, changes, fill=False).contiguous(), changes)


def _set(parameter: Tensor, values: Tensor, changes: list[Change]) -> None:
    """Give a parameter values of another shape, and its gradient that shape."""
    grad, parameter.grad = parameter.grad, None
    parameter.data = values
    parameter.grad = None if grad is None else applied(grad, changes)


def _resize_stacks(module: PerTask, name: str, changes: list[Change]) -> None:
    for values, tasks in module.moved(name):
        resized = fresh_stack(module, name, values, tasks, changes)
        _set(values, resized, changes)


def _resize_module(module: nn.Module) -> None:
    """What a layer says of itself; its parameters have their new shapes."""
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
        set_length(module, own_length(module))
    elif isinstance(module, HATMultiheadAttention) and module.per_head:
        module.num_heads = module.value.gate.units


def _resize_gate(gate: Gate, counts: Tensor) -> list[Change]:
    """Its buffers, and its embedding: units that join draw theirs."""
    places, copies = Layout(torch.Size((1, gate.units)), torch.arange(gate.units)[None]).index(1, counts)
    change = Change(0, gate.units, places, copies > 0)
    embedding = change(gate.embedding.data, fill=False)
    gate.rearrange(change)
    gate.embedding.grad = None
    gate.embedding.data = torch.where(change.mask(embedding), gate.draw(), embedding)
    return [change]


def _indices(body: nn.Module, own: dict[Gate, Tensor]) -> list[tuple[SideBySide | GatedAnywhere, Tensor]]:
    """What gates side by side, and gates that are applied element by element, will be told."""
    found: dict[SideBySide | GatedAnywhere, None] = {}
    for module in body.modules():
        each = module if isinstance(module, GatedAnywhere) else module.__dict__.get("gate")
        if isinstance(each, SideBySide | GatedAnywhere):
            found[each] = None
    return [(each, _resized_index(each.index, each.gates, own)) for each in found]


def _resized_index(index: Tensor, gates: list[Gate], own: dict[Gate, Tensor]) -> Tensor:
    """The unit of every place, counted through these gates; one more than the last is none."""
    counts = torch.cat([own[gate] for gate in gates])
    units = torch.where(index.cpu() == len(counts), -1, index.cpu())
    found = Layout(units.shape, units).resized(counts).units
    return torch.where(found < 0, int(counts.sum()), found)


def _head_columns(model: Network, first: dict[Gate, int], counts: Tensor) -> Change | None:
    """What becomes of what the heads read; None where it stays as it is."""
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
    """Finished ones read nothing of what has joined; the one that is learned starts to."""
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
