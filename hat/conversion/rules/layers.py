"""Rules of layers with parameters: which dimension of a parameter lies along which units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.analysis import Analysis, Args, Kwargs, ModuleRule
from hat.conversion.rules.rows import keeps_rows_apart
from hat.conversion.units import constant, of_one, varying
from hat.conversion.values import Value
from hat.layers.transposed import TransposedLinear


def _rows(analysis: Analysis, node: fx.Node, module: Any, length: int, *, dim: int = 0, groups: int = 1) -> Tensor:
    """The ids of the outputs of a layer, which lie along `dim` of its weight and along its bias."""
    name = str(node.target)
    rows = analysis.ids(module.weight, dim, shape=(length,))
    analysis.claim(name, "weight", dim, rows, groups=groups)
    if module.bias is not None:
        analysis.units.unite(rows, analysis.ids(module.bias, 0, shape=(length,)))
        analysis.claim(name, "bias", 0, rows)
    return rows


def _columns(
    analysis: Analysis,
    node: fx.Node,
    module: Any,
    value: Value,
    length: int,
    unit_dim: int,
    *,
    dim: int = 1,
    groups: int = 1,
) -> Tensor | None:
    """The ids of the inputs of a layer, which lie along `dim` of its weight; None if the inputs have no such units.

    The units of the inputs must lie along `unit_dim`, the dimension that the layer sums over.
    """
    name, labels = str(node.target), analysis.labels(value) if value.is_parameter else value.labels
    if labels is None or (constant(labels.clamp(min=0), unit_dim) and not _is_the_only_unit(labels, unit_dim)):
        if labels is not None:
            analysis.lose(value)
        analysis.claim(name, "weight", dim, None)
        return None
    columns = analysis.ids(module.weight, dim, shape=(length,))
    inputs = labels.movedim(unit_dim, -1)
    analysis.units.unite(columns, inputs.clamp(min=0))
    analysis.demand(value)
    analysis.claim(name, "weight", dim, _of_units_only(analysis, inputs, columns), groups=groups)
    return columns


def _is_the_only_unit(labels: Tensor, unit_dim: int) -> bool:
    """Whether all elements belong to one unit, which lies along this dimension."""
    return not varying(labels) and of_one(labels.shape) == unit_dim % labels.dim()


def _of_units_only(analysis: Analysis, labels: Tensor, ids: Tensor) -> Tensor:
    """The ids [length] of the last dimension, with 0 for every place that some element of no unit has too.

    An element of no unit cannot be switched off, so no rate may depend on a unit there. The element keeps its place, so
    the units at the same place keep theirs.

    Args:
        analysis: the analysis.
        labels: [..., length] the labels of the elements.
        ids: [length] the ids of the places.
    """
    flat = labels.flatten(0, -2)
    strangers = (flat == 0).any(0)
    analysis.units.fix(torch.where(strangers & (flat > 0).any(0), ids, 0))
    return torch.where(strangers | (flat <= 0).all(0), 0, ids)


def _linear(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    of_outputs = 1 if isinstance(module, TransposedLinear) else 0
    _columns(analysis, node, module, args[0], module.in_features, -1, dim=1 - of_outputs)
    rows = _rows(analysis, node, module, module.out_features, dim=of_outputs)
    return Value(analysis.concrete[node].shape, rows.expand(analysis.concrete[node].shape))


def _conv(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    value, shape = args[0], analysis.concrete[node].shape
    if len(shape) != len(module.kernel_size) + 2:
        return None
    groups = module.groups
    if groups > 1 and groups == module.in_channels:
        return _depthwise(analysis, node, module, value)
    columns = _columns(analysis, node, module, value, module.in_channels, 1, groups=groups)
    rows = _rows(analysis, node, module, module.out_channels)
    if groups > 1:
        _within_groups(analysis, rows, groups)
        if columns is not None:
            _within_groups(analysis, columns, groups)
    return Value(shape, _channels(rows, shape))


def _depthwise(analysis: Analysis, node: fx.Node, module: Any, value: Value) -> Value:
    """A convolution of every channel by itself: the output channels are the units of the input channels."""
    shape = analysis.concrete[node].shape
    rows = _rows(analysis, node, module, module.out_channels)
    gated = False
    if value.labels is None:
        _within_groups(analysis, rows, module.groups)
    else:
        inputs = value.labels.repeat_interleave(module.out_channels // module.in_channels, 1)
        _of_units_only(analysis, inputs.movedim(1, -1), rows)
        analysis.units.unite(_channels(rows, inputs.shape), inputs.clamp(min=0))
        analysis.claim(
            str(node.target), "weight", 1, rows[:: module.out_channels // module.in_channels], groups=module.groups
        )
        gated = value.gated and module.bias is None and bool((inputs != 0).all())
    return Value(shape, _channels(rows, shape), gated)


def _transposed_conv(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    value, shape, groups = args[0], analysis.concrete[node].shape, module.groups
    if len(shape) != len(module.kernel_size) + 2:
        return None
    columns = _columns(analysis, node, module, value, module.in_channels, 1, dim=0)
    rows = _rows(analysis, node, module, module.out_channels, dim=1, groups=groups)
    if groups > 1:
        _within_groups(analysis, rows, groups)
        if columns is not None:
            _within_groups(analysis, columns, groups)
    return Value(shape, _channels(rows, shape))


def _within_groups(analysis: Analysis, ids: Tensor, groups: int) -> None:
    """Let units change places only within their group."""
    analysis.units.part(ids, torch.arange(groups).repeat_interleave(len(ids) // groups))


def _channels(ids: Tensor, shape: torch.Size) -> Tensor:
    """The ids of channels as labels of the shape [B, C, ...]."""
    return ids.view(1, -1, *[1] * (len(shape) - 2)).expand(shape)


def _embedding(analysis: Analysis, node: fx.Node, module: nn.Embedding, args: Args, kwargs: Kwargs) -> Any:
    shape = analysis.concrete[node].shape
    columns = analysis.ids(module.weight, 1, shape=(module.embedding_dim,))
    analysis.claim(str(node.target), "weight", 1, columns)
    return Value(shape, columns.expand(shape))


def _batch_norm(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    if value.labels is None:
        return Value(value.shape)
    _along_norm(analysis, node, module, value, 1)
    return Value(value.shape, value.labels.clamp(min=0))


def _group_norm(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    if value.labels is None:
        return Value(value.shape)
    if module.num_groups < module.num_channels:
        analysis.demand(value)
    ids = _along_norm(analysis, node, module, value, 1)
    if module.num_groups > 1:
        _within_groups(analysis, ids, module.num_groups)
    return Value(value.shape, value.labels.clamp(min=0))


def _layer_norm(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    labels = analysis.labels(value) if value.is_parameter else value.labels
    if labels is None:
        return Value(value.shape)
    dims = len(module.normalized_shape)
    keeps_zero = isinstance(module, nn.RMSNorm)
    if all(constant(labels, -1 - dim) for dim in range(dims)):  # a norm of every unit by itself
        return Value(value.shape, labels.clamp(min=0), value.gated and keeps_zero, value.parameters)
    analysis.demand(value)
    if dims > 1:
        analysis.units.fix(labels.clamp(min=0))
    else:
        _along_norm(analysis, node, module, value, -1)
    whole = bool((labels != 0).all())
    return Value(value.shape, labels.clamp(min=0), value.gated and keeps_zero and whole)


def _along_norm(analysis: Analysis, node: fx.Node, module: Any, value: Value, unit_dim: int) -> Tensor:
    """Claim the parameters and statistics of a norm. They move with their units; per-task tensors need no lock.

    Returns:
        [length] the ids along `unit_dim`, 0 for places that some element of no unit has.
    """
    name, labels = str(node.target), analysis.labels(value).movedim(unit_dim, -1)
    ids = analysis.ids(module, shape=(labels.shape[-1],))
    analysis.units.unite(ids, labels.clamp(min=0))
    ids_of_units = _of_units_only(analysis, labels, ids)
    for parameter in ("weight", "bias", "running_mean", "running_var"):
        if getattr(module, parameter, None) is not None:
            analysis.claim(name, parameter, 0, ids_of_units, locks=False)
    return ids_of_units


MODULES: dict[type[nn.Module], ModuleRule] = {
    **dict.fromkeys((nn.Linear, TransposedLinear), _linear),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed_conv),
    nn.Embedding: _embedding,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    nn.GroupNorm: _group_norm,
    **dict.fromkeys((nn.LayerNorm, nn.RMSNorm), _layer_norm),
}


def derived_rule(module: nn.Module) -> ModuleRule | None:
    """The rule of a class derived from a linear layer or convolution, which may compute its weight; None for others."""
    return _derived if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) else None


def _derived(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    """A layer that computes its weight row by row, as a standardised convolution does. Whole rows are locked.

    That each row is computed by itself is known from the operations of the layer, see `keeps_rows_apart`.
    """
    value, result, name = args[0], analysis.concrete[node], str(node.target)
    if getattr(module, "transposed", False) or len(args) > 1 or kwargs or not isinstance(result, Tensor):
        return None
    example: Any = node.args[0]
    if not keeps_rows_apart(module, analysis.concrete[example]):
        return None
    unit_dim = -1 if isinstance(module, nn.Linear) else 1
    rows = analysis.ids(module.weight, 0, shape=(len(module.weight),))
    if value.labels is not None:
        analysis.demand(value)
        analysis.units.fix(value.labels.clamp(min=0))  # because the columns of the weight do not move with them
    for parameter_name, parameter in module.named_parameters(recurse=False):
        ids = analysis.ids(parameter, 0, shape=(len(rows),))
        analysis.units.unite(rows, ids)
        analysis.claim(name, parameter_name, 0, ids)
    if getattr(module, "groups", 1) > 1:
        _within_groups(analysis, rows, module.groups)
    return Value(result.shape, rows.expand(result.shape) if unit_dim == -1 else _channels(rows, result.shape))
