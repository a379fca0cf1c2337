"""Rules of functions that treat channels: gated linear units, PReLU, instance norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from hat.conversion.analysis import Analysis, Args, Kwargs, ModuleRule, Rule
from hat.conversion.rules.elementwise import meet_one_to_one, multiply
from hat.conversion.units import constant
from hat.conversion.values import Value


def _glu(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    return glu(analysis, args[0], args[1] if len(args) > 1 else kwargs.get("dim", -1))


def _glu_module(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    return glu(analysis, args[0], module.dim)


def glu(analysis: Analysis, value: Value, dim: int) -> Value | None:
    """The first half of the channels times the sigmoid of the second half.

    None if a unit of one half meets several units of the other, as in a value that was broadcast. A half is the value
    of no node, so it could not be gated alone.
    """
    shape = torch.Size(size // 2 if d == dim % len(value.shape) else size for d, size in enumerate(value.shape))
    if value.labels is None:
        return Value(shape)
    first, second = value.labels.chunk(2, dim)
    if not meet_one_to_one(analysis, first, second):
        return None
    analysis.units.part(first.clamp(min=0), torch.tensor(0))
    analysis.units.part(second.clamp(min=0), torch.tensor(1))
    return multiply(analysis, Value(shape, first, value.gated), Value(shape, second.clamp(min=0)), shape)


def _prelu(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    x, slope = args
    if not isinstance(x, Value) or not isinstance(slope, Value) or not slope.is_parameter:
        return None
    return multiply(analysis, x, _of_channels(analysis, slope, x), x.shape)


def _instance_norm(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    """A norm of every channel of a sample by itself."""
    x = args[0]
    if not isinstance(x, Value) or x.labels is None or kwargs.get("running_mean") is not None:
        return None
    if not all(constant(x.labels, dim) for dim in range(2, len(x.shape))):
        return None
    for name in ("weight", "bias"):
        if isinstance(kwargs.get(name), Value):
            multiply(analysis, x, _of_channels(analysis, kwargs[name], x), x.shape)
    return Value(x.shape, x.labels.clamp(min=0))


def _of_channels(analysis: Analysis, parameter: Value, x: Value) -> Value:
    """A parameter [C] or [1] in the shape [C, 1, ...] or [1, 1, ...] in which it broadcasts with x [B, C, ...]."""
    shape = (-1, *[1] * max(len(x.shape) - 2, 0))
    ids = analysis.labels(parameter).reshape(shape)
    return Value(ids.shape, ids, parameters=parameter.parameters)


RULES: dict[str, Rule] = {"glu": _glu, "prelu": _prelu, "instance_norm": _instance_norm}
MODULES: dict[type[nn.Module], ModuleRule] = {nn.GLU: _glu_module}
