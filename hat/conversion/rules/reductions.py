"""Rules of operations along dimensions: sums, means, softmax, and operations over positions, as pooling."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from hat.conversion.analysis import Analysis, Args, Kwargs, ModuleRule, Rule
from hat.conversion.units import constant, varying
from hat.conversion.values import Value
from hat.tracing.names import operation

_KEEP_ZERO = ("mean", "sum", "amax", "amin", "norm", "std", "var", "prod", "nansum")

_ADDS = ("sum", "nansum")  # elements that are 0 may be left out of a sum, but not of a mean


def _reduce(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    """A reduction over dimensions.

    If the labels do not vary along these dimensions, the result keeps the units. Otherwise it is a reduction over
    units, and the result belongs to no unit.
    """
    value, result = args[0], analysis.concrete[node]
    if not isinstance(value, Value) or not isinstance(result, Tensor):
        return None
    labels = analysis.labels(value)
    dims = _dims(args[1:] if "norm" in str(node.target) else args, kwargs, labels.dim())
    if dims is None:
        return None
    kept_dims = [dim for dim in range(labels.dim()) if dim not in dims]
    if any(not constant(labels, dim) for dim in dims):
        if not value.is_parameter:  # a parameter becomes a per-task parameter, which needs no gate
            analysis.demand(value)
        if value.is_parameter or any(not constant(labels, dim) for dim in kept_dims):
            analysis.lose(value)
        if operation(node) not in _ADDS:
            analysis.need(labels)
        return Value(result.shape)
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    return Value(result.shape, labels.reshape(result.shape), value.gated, value.parameters)


def _dims(args: Args, kwargs: Kwargs, count: int) -> list[int] | None:
    """The dimensions that a call reduces over, of `count`; None if they are not constants."""
    given = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    if given is None or isinstance(given, bool):  # a bool is the argument `unbiased` of a variance
        return list(range(count))
    given = [given] if isinstance(given, int) else given
    if not isinstance(given, tuple | list) or not all(isinstance(dim, int) for dim in given):
        return None
    return [dim % count for dim in given]


def _softmax(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    dims = _dims(args, kwargs, len(value.shape)) if isinstance(value, Value) else None
    return None if dims is None else softmax(analysis, value, dims[0])


def softmax(analysis: Analysis, value: Value, dim: int) -> Value | None:
    """A softmax of every unit by itself; None if the labels vary along `dim`."""
    labels = analysis.labels(value)
    if not constant(labels, dim):
        return None
    return Value(value.shape, labels.clamp(min=0), gated=False, parameters=value.parameters)


def _softmax_module(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    return None if module.dim is None else softmax(analysis, args[0], module.dim % len(args[0].shape))


def over_positions(analysis: Analysis, node: fx.Node, value: Any, name: str) -> Any:
    """Pooling and resizing of (B, N, *positions), every channel by itself."""
    result = analysis.concrete[node]
    dims = next((dims for dims in (1, 2, 3) if f"{dims}d" in name), None)
    if dims is not None and isinstance(value, Value) and len(value.shape) != dims + 2:
        return None  # a single sample without a batch dimension
    if not isinstance(value, Value) or not isinstance(result, Tensor) or result.dim() != len(value.shape):
        return None
    labels = analysis.labels(value)
    same_length = [dim for dim in range(labels.dim()) if labels.shape[dim] == result.shape[dim]]
    if labels.dim() < 3 or any(dim > 1 for dim in varying(labels.clamp(min=0))) or not {0, 1} <= set(same_length):
        return None
    all_belong = bool((labels != 0).all())
    labels = labels.amax(tuple(range(2, labels.dim())), keepdim=True)  # a padding with zeros keeps the unit's label
    return Value(result.shape, labels.expand(result.shape), value.gated and all_belong, value.parameters)


def _pool(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    return over_positions(analysis, node, args[0] if args else kwargs["input"], operation(node) or "")


def _pool_module(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    return over_positions(analysis, node, args[0], type(module).__name__)


def _pools(name: str) -> list[str]:
    return [f"{name}{dims}d" for dims in (1, 2, 3)]


_POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool")
RULES: dict[str, Rule] = {
    **dict.fromkeys(_KEEP_ZERO, _reduce),
    **dict.fromkeys([name for pool in _POOLS for name in _pools(pool)], _pool),
    **dict.fromkeys(("interpolate", "upsample"), _pool),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
}
MODULES: dict[type[nn.Module], ModuleRule] = {
    **{
        getattr(nn, name): _pool_module
        for pool in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "LPPool")
        for name in _pools(pool)
    },
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), _pool_module),
    nn.Softmax: _softmax_module,
}
