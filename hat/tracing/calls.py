"""Recording one call of a function.

A call is recorded under its plain Python name if it has one: `torch.add(x, y)`, `x.add(y)`, `x + y` and `x.__radd__(y)`
all become `operator.add`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from hat.tracing.errors import ConversionError
from hat.tracing.nodes import Nodes
from hat.tracing.sizes import Real, Size
from hat.tracing.trees import flat

_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "subtract": operator.sub, "mul": operator.mul, "multiply": operator.mul,
    "div": operator.truediv, "divide": operator.truediv, "true_divide": operator.truediv, "matmul": operator.matmul,
    "pow": operator.pow, "neg": operator.neg, "negative": operator.neg, "eq": operator.eq, "ne": operator.ne,
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


class Recording(AbstractContextManager[Any], Protocol):
    """What the functions that record a call use of a recorder; see `hat.tracing.recorder.Recorder`."""

    nodes: Nodes
    learning: bool

    @property
    def owners(self) -> Mapping[str, nn.Module]: ...

    def paused(self) -> AbstractContextManager[None]: ...

    def record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    def insert(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    def replace(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    def become(self, tensor: Tensor, result: Tensor, *, same_values: bool = False) -> Tensor: ...


def record(recorder: Recording, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record a call that writes to no tensor, as an operator of Python if there is one, and return its answer."""
    name = function.__name__
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    if not _recordable(recorder, args, kwargs):
        return function(*args, **kwargs)
    if not kwargs and (call := _operator(name, args)) is not None:
        return recorder.record("call_function", *call, {})
    if getattr(Tensor, name, None) == function:
        return recorder.record("call_method", name, args, kwargs)
    return recorder.record("call_function", function, args, kwargs)


def _recordable(recorder: Recording, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call with these arguments becomes a node.

    Not so if a graph cannot hold the arguments and none of them is a tensor or a size. Then the answer is a constant.
    """
    if any(isinstance(value, Tensor | Size | Real) for value in flat((args, kwargs))):
        return True
    try:
        recorder.nodes.argument((args, kwargs))
    except ConversionError:
        return False
    return True


def _operator(name: str, args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """The operator of Python that a function of this name is, and its arguments in order; None if it is none."""
    if name in _OPERATORS and len(args) == (1 if name.startswith("neg") else 2):
        return _OPERATORS[name], args
    if not name.startswith("__"):
        return None
    name = {"__div__": "__truediv__", "__rdiv__": "__rtruediv__", "__idiv__": "__itruediv__"}.get(name, name)
    unprefixed = f"__{name[3:]}"  # __add__ for __radd__ and __iadd__
    if name[2] in "ri" and name != "__invert__" and hasattr(operator, unprefixed):
        return getattr(operator, unprefixed), args[::-1] if name[2] == "r" else args
    return (getattr(operator, name), args) if hasattr(operator, name) else None
