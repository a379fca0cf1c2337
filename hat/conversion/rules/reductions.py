"""Operations along dimensions: sums, means, softmax, and those over positions, as pooling."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from hat.conversion.analysis import Analysis, ModuleRule, Rule
from hat.conversion.units import constant, varying
from hat.conversion.values import Value
from hat.tracing.names import operation

_KEEP_ZERO = ("mean", "sum", "amax", "amin", "norm", "std", "var", "prod", "nansum")

_ADDS = ("sum", "nansum")  # what is 0 may be left out


def _reduce(a: Analysis, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Over what is not a unit, it is one for each; over units, it belongs to none."""
    value, found = args[0], a.concrete[node]
    if not isinstance(value, Value) or not isinstance(found, Tensor):
        return None
    labels = a.labels(value)
    dims = _dims(args[1:] if "norm" in str(node.target) else args, kwargs, labels.dim())
    if dims is None:
        return None
    rest = [dim for dim in range(labels.dim()) if dim not in dims]
    if any(not constant(labels, dim) for dim in dims):
        if not value.is_parameter:  # nothing is gated that every task has its own of
            a.demand(value)
        if value.is_parameter or any(not constant(labels, dim) for dim in rest):
            a.lose(value)
        if operation(node) not in _ADDS:
            a.need(labels)
        return Value(found.shape)
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    return Value(found.shape, labels.reshape(found.shape), value.gated, value.parameters)


def _dims(args: tuple[Any, ...], kwargs: dict[str, Any], count: int) -> list[int] | None:
    given = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    if given is None or isinstance(given, bool):  # the `unbiased` of a variance
        return list(range(count))
    given = [given] if isinstance(given, int) else given
    if not isinstance(given, tuple | list) or not all(isinstance(dim, int) for dim in given):
        return None
    return [dim % count for dim in given]


def _softmax(a: Analysis, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    value = args[0]
    dims = _dims(args, kwargs, len(value.shape)) if isinstance(value, Value) else None
    return None if dims is None else softmax(a, value, dims[0])


def softmax(a: Analysis, value: Value, dim: int) -> Value | None:
    """Along what is not a unit, every unit has its own; None along units."""
    labels = a.labels(value)
    if not constant(labels, dim):
        return None
    return Value(value.shape, labels.clamp(min=0), gated=False, parameters=value.parameters)


def _softmax_module(a: Analysis, node: fx.Node, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return None if module.dim is None else softmax(a, args[0], module.dim % len(args[0].shape))


def over_positions(a: Analysis, node: fx.Node, value: Any, name: str) -> Any:
    """Pooling and resizing of (B, N, *positions): each channel by itself."""
    found = a.concrete[node]
    dims = next((dims for dims in (1, 2, 3) if f"{dims}d" in name), None)
    if dims is not None and isinstance(value, Value) and len(value.shape) != dims + 2:
        return None  # one sample, without a dimension for a batch
    if not isinstance(value, Value) or not isinstance(found, Tensor) or found.dim() != len(value.shape):
        return None
    labels = a.labels(value)
    kept = [dim for dim in range(labels.dim()) if labels.shape[dim] == found.shape[dim]]
    if labels.dim() < 3 or any(dim > 1 for dim in varying(labels.clamp(min=0))) or not {0, 1} <= set(kept):
        return None
    whole = bool((labels != 0).all())
    labels = labels.amax(tuple(range(2, labels.dim())), keepdim=True)  # what pads it with zeros is still 0
    return Value(found.shape, labels.expand(found.shape), value.gated and whole, value.parameters)


def _pool(a: Analysis, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return over_positions(a, node, args[0] if args else kwargs["input"], operation(node) or "")


def _pool_module(a: Analysis, node: fx.Node, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return over_positions(a, node, args[0], type(module).__name__)


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
