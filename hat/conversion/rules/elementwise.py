"""Rules of elementwise operations: functions of one tensor, and sums and products of two.

Two questions decide every rule:

- Does the operation keep zeros? A ReLU maps 0 to 0, so a value that was gated is still gated. A sigmoid maps 0 to 0.5,
  so it is not.
- Which units meet in an element? If a unit of one tensor always meets the same unit of the other, the two are united.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.analysis import Analysis, Args, Kwargs, ModuleRule, Rule
from hat.conversion.units import constant, narrowed
from hat.conversion.values import Value

_KEEP_ZERO = (
    *("relu", "relu6", "gelu", "silu", "tanh", "hardswish", "leaky_relu", "elu", "celu", "selu", "mish"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "tanhshrink", "softshrink"),
    *("abs", "neg", "sqrt", "square", "sign", "sin", "erf", "floor", "round", "trunc", "asinh", "atan", "expm1"),
    *("log1p", "positive", "nan_to_num", "hardshrink", "rrelu", "softsign"),
    *("float", "half", "bfloat16", "double", "requires_grad_"),
)
_CASTS = ("to", "type", "type_as", "_to_copy")
_MOVE_ZERO = (
    *("sigmoid", "hardsigmoid", "softplus", "logsigmoid", "exp", "exp2", "log", "log2", "cos", "rsqrt", "reciprocal"),
)


def unary(analysis: Analysis, value: Value, *, keeps_zero: bool) -> Value:
    """A function of every element of one tensor."""
    labels = analysis.labels(value) if value.is_parameter else value.labels
    if labels is None:
        return Value(value.shape)
    if not keeps_zero:
        labels = labels.clamp(min=0)  # elements that were exactly 0 are another constant now
    return Value(value.shape, labels, value.gated and keeps_zero, value.parameters)


def _unary_rule(*, keeps_zero: bool) -> Rule:
    def rule(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
        x = args[0] if args else kwargs.get("input")
        return unary(analysis, x, keeps_zero=keeps_zero) if isinstance(x, Value) else None

    return rule


def _cast(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    """A cast to another dtype; None if the result is boolean or integer, because no gate can stand behind it."""
    if not isinstance(args[0], Value) or not analysis.concrete[node].is_floating_point():
        return None
    return unary(analysis, args[0], keeps_zero=True)


def _module_rule(*, keeps_zero: bool) -> ModuleRule:
    def rule(analysis: Analysis, node: fx.Node, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        return unary(analysis, args[0], keeps_zero=keeps_zero) if isinstance(args[0], Value) else None

    return rule


def _hardtanh_module(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    return unary(analysis, args[0], keeps_zero=module.min_val <= 0 <= module.max_val)


def _hardtanh(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    return _clamp(analysis, node, args, {"min": kwargs.get("min_val", -1.0), "max": kwargs.get("max_val", 1.0)})


def _clamp(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    low = args[1] if len(args) > 1 else kwargs.get("min")
    high = args[2] if len(args) > 2 else kwargs.get("max")
    if isinstance(low, Value) or isinstance(high, Value):
        return None
    keeps_zero = (low is None or low <= 0) and (high is None or high >= 0)
    return unary(analysis, args[0], keeps_zero=keeps_zero)


def _pow(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    exponent = args[1] if len(args) > 1 else kwargs.get("exponent")
    if not isinstance(args[0], Value) or not isinstance(exponent, int | float):
        return None
    return unary(analysis, args[0], keeps_zero=exponent > 0)


def _masked_fill(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    if len(args) < 3 or isinstance(args[2], Value) or not isinstance(args[0], Value):
        return None
    return _against_unlabelled(analysis, args[0], args[1], keeps_zero=args[2] == 0)


def _add(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    x, y = args[:2]
    if isinstance(x, Value) and isinstance(y, Value):
        return add(analysis, x, y, analysis.concrete[node].shape)
    value, number = (x, y) if isinstance(x, Value) else (y, x)
    return unary(analysis, value, keeps_zero=isinstance(number, int | float) and number == 0)


def _mul(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    x, y = args[:2]
    if isinstance(x, Value) and isinstance(y, Value):
        return multiply(analysis, x, y, analysis.concrete[node].shape)
    return unary(analysis, x if isinstance(x, Value) else y, keeps_zero=True)


def add(analysis: Analysis, x: Value, y: Value, shape: torch.Size) -> Value:
    """A sum, a difference, a maximum or a minimum: an element of the result is 0 if both elements are 0."""
    if x.is_parameter and y.is_parameter:
        return _of_parameters(analysis, x, y, shape)
    if x.is_parameter or y.is_parameter:
        parameter, activation = (x, y) if x.is_parameter else (y, x)
        return _with_parameter(analysis, parameter, activation, shape, keeps_zero=False)
    if x.labels is None or y.labels is None:
        return _join_stream(analysis, *((x, y) if y.labels is None else (y, x)), shape)
    x_count, y_count, pairs = _counts(analysis, x.labels, y.labels)
    if pairs > max(x_count, y_count):  # a unit of one tensor meets many units of the other: all would become one unit
        kept, lost = (x, y) if (x.gated, x_count) >= (y.gated, y_count) else (y, x)
        analysis.lose(lost)
        return _join_stream(analysis, kept, lost, shape)
    if x.gated != y.gated:  # one is a gated residual stream: gate its branch too, so that the sum needs no gate
        analysis.demand(x)
        analysis.demand(y)
    analysis.units.unite(x.labels.clamp(min=0), y.labels.clamp(min=0))
    _keep_beside_strangers(analysis, x.labels, y.labels)
    labels = _joined(x.labels, y.labels, shape)
    meets_stranger = _meet(x.labels, y.labels) or _meet(y.labels, x.labels)
    return Value(shape, labels, x.gated and y.gated and not meets_stranger)


def _join_stream(analysis: Analysis, stream: Value, branch: Value, shape: torch.Size) -> Value:
    """The sum of a residual stream, which has units, and a branch, which has none.

    If the stream is gated already, the branch is gated by the units of the stream before the sum. Otherwise the sum
    would need a gate, and a stream with many branches would be gated again and again.
    """
    if stream.gated and branch.shape == shape and analysis.gate_as(branch, stream.ids.expand(shape)):
        kept = _against_unlabelled(analysis, stream, Value(branch.shape), keeps_zero=True)
        return Value(shape, kept.ids.clamp(min=0), gated=True)
    return _against_unlabelled(analysis, stream, Value(branch.shape), keeps_zero=False)


def multiply(analysis: Analysis, x: Value, y: Value, shape: torch.Size) -> Value:
    """A product: an element of the result is 0 if one of the two elements is 0."""
    if x.is_parameter and y.is_parameter:
        return _of_parameters(analysis, x, y, shape)
    if x.is_parameter or y.is_parameter:
        parameter, activation = (x, y) if x.is_parameter else (y, x)
        return _with_parameter(analysis, parameter, activation, shape, keeps_zero=True)
    if x.labels is None or y.labels is None:
        labelled, unlabelled = (x, y) if y.labels is None else (y, x)
        return _against_unlabelled(analysis, labelled, unlabelled, keeps_zero=True)
    if meet_one_to_one(analysis, x.labels, y.labels):
        analysis.units.unite(x.labels.clamp(min=0), y.labels.clamp(min=0))
        _keep_beside_strangers(analysis, x.labels, y.labels)
        is_zero = _zeros(x) | _zeros(y)
        joined = _joined(x.labels, y.labels, shape)
        return Value(shape, joined, bool((is_zero.expand(shape) | (joined <= 0)).all()))
    analysis.demand(x)
    analysis.demand(y)
    x_count, y_count, _ = _counts(analysis, x.labels, y.labels)
    fine, coarse = (x, y) if x_count >= y_count else (y, x)
    assert fine.labels is not None
    assert coarse.labels is not None
    analysis.units.fix(coarse.labels.clamp(min=0))
    analysis.units.fix(fine.labels.clamp(min=0))
    return Value(shape, fine.labels.expand(shape), gated=True)


def meet_one_to_one(analysis: Analysis, x: Tensor, y: Tensor) -> bool:
    """Whether every unit of one tensor that meets units of the other meets a single one. The tensors have labels."""
    x_count, y_count, pairs = _counts(analysis, x, y)
    return pairs == x_count == y_count


def _counts(analysis: Analysis, x: Tensor, y: Tensor) -> tuple[int, int, int]:
    """(units of x that meet a unit of y, units of y that meet a unit of x, pairs of units that meet)."""
    pairs = analysis.units.pairs(x.clamp(min=0), y.clamp(min=0))
    x_count, y_count = (len(torch.unique(pairs[:, side])) for side in (0, 1))
    return x_count, y_count, len(pairs)


def _of_parameters(analysis: Analysis, x: Value, y: Value, shape: torch.Size) -> Value:
    """A sum or product of two parameters: the smaller one becomes a per-task parameter.

    If the larger one has fewer elements than the result, it becomes a per-task parameter too.
    """
    fine, coarse = (x, y) if x.shape.numel() >= y.shape.numel() else (y, x)
    analysis.make_per_task(coarse)
    labels = analysis.labels(fine).expand(shape) if fine.shape.numel() == shape.numel() else None
    if labels is None:
        analysis.make_per_task(fine)
        return Value(shape)
    return Value(shape, labels, parameters=fine.parameters)


def _with_parameter(
    analysis: Analysis, parameter: Value, activation: Value, shape: torch.Size, *, keeps_zero: bool
) -> Value:
    """A sum or product of a parameter and an activation.

    If every element of the parameter meets exactly one unit, the parameter lies along these units. Otherwise it becomes
    a per-task parameter.
    """
    if activation.labels is None:
        analysis.make_per_task(parameter)
        return Value(shape)
    ids, labels = analysis.labels(parameter), activation.labels.clamp(min=0)
    pairs = analysis.units.pairs(ids, labels)
    if len(torch.unique(pairs[:, 0])) < len(pairs) or not len(pairs) or _meet(ids, activation.labels):
        analysis.make_per_task(parameter)
        return _against_unlabelled(analysis, activation, Value(parameter.shape), keeps_zero=keeps_zero)
    analysis.units.unite(ids, labels)
    joined = activation.labels.expand(shape) if keeps_zero else _joined(ids, activation.labels, shape)
    return Value(shape, joined, activation.gated and keeps_zero)


def _against_unlabelled(analysis: Analysis, value: Value, unlabelled: Any, *, keeps_zero: bool) -> Value:
    """A sum or product of a value with units and a value without.

    The units keep their places along the dimensions that the value without units has.
    """
    labels = value.ids
    if isinstance(unlabelled, Value):
        shape = torch.broadcast_shapes(value.shape, unlabelled.shape)
        labels = labels.expand(shape)
        _part_along(analysis, labels, unlabelled)
    labels = labels if keeps_zero else labels.clamp(min=0)
    return Value(labels.shape, labels, value.gated and keeps_zero)


def _part_along(analysis: Analysis, labels: Tensor, unlabelled: Value) -> None:
    """Units that meet different elements of `unlabelled` may not change places."""
    extent = (1,) * (labels.dim() - len(unlabelled.shape)) + tuple(unlabelled.shape)
    dims = [dim for dim in range(labels.dim()) if extent[dim] > 1 and not constant(labels, dim)]
    if dims:
        place = torch.arange(torch.Size(extent[dim] for dim in dims).numel())
        shape = [extent[dim] if dim in dims else 1 for dim in range(labels.dim())]
        analysis.units.part(labels.clamp(min=0), place.view(shape))


def _joined(x: Tensor, y: Tensor, shape: torch.Size) -> Tensor:
    """The label of every element of a sum: the larger label, so that it is `ZERO` only if both labels are."""
    small = torch.maximum(*torch.broadcast_tensors(*narrowed(x, y)))
    return small.expand(shape)


def _meet(x: Tensor, y: Tensor) -> bool:
    """Whether a unit of `x` meets an element of `y` that belongs to no unit and is not always 0."""
    x, y = torch.broadcast_tensors(*narrowed(x, y))
    return bool(((x > 0) & (y == 0)).any())


def _keep_beside_strangers(analysis: Analysis, x: Tensor, y: Tensor) -> None:
    """Fix the units that meet an element of no unit, because that element keeps its place."""
    x, y = torch.broadcast_tensors(*narrowed(x, y))
    analysis.units.fix(torch.where(y == 0, x, 0))
    analysis.units.fix(torch.where(x == 0, y, 0))


def _zeros(value: Value) -> Tensor:
    """Bool: the element is exactly 0, either always, or whenever its unit is off."""
    (labels,) = narrowed(value.ids)
    return ((labels > 0) if value.gated else torch.zeros_like(labels, dtype=torch.bool)) | (labels < 0)


RULES: dict[str, Rule] = {
    **dict.fromkeys(_KEEP_ZERO, _unary_rule(keeps_zero=True)),
    **dict.fromkeys(_MOVE_ZERO, _unary_rule(keeps_zero=False)),
    **dict.fromkeys(("add", "sub", "rsub", "maximum", "minimum", "__add__", "__radd__", "__sub__"), _add),
    **dict.fromkeys(("mul", "__mul__", "__rmul__"), _mul),
    **dict.fromkeys(_CASTS, _cast),
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "pow": _pow,
    "masked_fill": _masked_fill,
}

_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Tanh, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU),
    *(nn.Mish, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Softsign),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity),
)
MODULES: dict[type[nn.Module], ModuleRule] = {
    **dict.fromkeys(_ACTIVATIONS, _module_rule(keeps_zero=True)),
    nn.Hardtanh: _hardtanh_module,
    **dict.fromkeys((nn.Sigmoid, nn.Hardsigmoid, nn.Softplus, nn.LogSigmoid), _module_rule(keeps_zero=False)),
}
MODULES_BY_NAME: dict[str, ModuleRule] = dict.fromkeys(
    ("DropPath", "StochasticDepth", "DropBlock2d"), _module_rule(keeps_zero=True)
)
