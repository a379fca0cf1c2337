"""Numbers that know their node in the recorded graph: sizes of tensors, and numbers that Python computes from sizes.

Example: a module that receives `x` [2, 12] calls `x.view(x.shape[0], x.shape[1] // 3, 3)`.

    expression       number    node
    x.shape[0]       Size(2)   getitem (shape, 0)
    x.shape[1]       Size(12)  getitem_1 (shape, 1)
    x.shape[1] // 3  Size(4)   floordiv (getitem_1, 3)

`Size(4)` is an int for Python, and the arguments of `view` in the graph are the nodes. So the graph computes the sizes
anew for every input. `int(x.shape[0])` loses the node: Python insists on a plain int. The place is noted as burnt,
and `hat.tracing.following` tries to recover how the number depends on the batch size.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Protocol

from torch import fx


class Ledger(Protocol):
    """Records the arithmetic of sizes; see `hat.tracing.nodes.Nodes`."""

    def arithmetic(self, operation: Callable[..., Any], *numbers: Any) -> Any: ...

    def burn(self) -> None: ...

    def decide(self, node: fx.Node, outcome: bool) -> bool: ...


class _Traced:
    """The common part of `Size` and `Real`.

    Attributes:
        node: the node whose value is the number.
        nodes: the recording that the node belongs to.
    """

    node: fx.Node
    nodes: Ledger

    def __new__(cls, value: float, node: fx.Node, nodes: Ledger) -> Any:
        number = super().__new__(cls, value)  # type: ignore[call-arg]
        number.node, number.nodes = node, nodes
        return number

    def __reduce__(self) -> Any:
        return (float if isinstance(self, float) else int), (plain(self),)

    def __int__(self) -> int:
        self.nodes.burn()
        return int.__int__(self) if isinstance(self, int) else int(float.__trunc__(self))  # type: ignore[arg-type]


class Size(_Traced, int):
    """An int whose arithmetic is recorded, so that the graph works with another batch size.

    Comparisons, `range` and `int` use the value on the example, which the graph then keeps for every input. What
    comparisons answer is noted, see `Nodes.decided`.
    """


class Real(_Traced, float):
    """A float whose arithmetic is recorded, see `Size`."""


def number(value: Any, node: fx.Node, nodes: Ledger) -> Any:
    """An int or float as a `Size` or `Real` that knows its node; any other value unchanged."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return (Size if isinstance(value, int) else Real)(value, node, nodes)


def plain(value: Any) -> Any:
    """The plain int or float of a `Size` or `Real`; any other value unchanged."""
    if isinstance(value, Size):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, Real) else value


def _binary(operation: Callable[..., Any], reflected: bool) -> Callable[..., Any]:
    """A method that records `self operation other`, or `other operation self` if reflected."""

    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        return self.nodes.arithmetic(operation, *((other, self) if reflected else (self, other)))

    return method


def _unary(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: self.nodes.arithmetic(operation, self)


def _comparison(name: str, kind: type) -> Callable[..., Any]:
    compare = getattr(kind, name)

    def method(self: Any, *other: Any) -> Any:
        outcome = compare(self, *other)
        return outcome if outcome is NotImplemented else self.nodes.decide(self.node, outcome)

    return method


for _class, _kind in ((Size, int), (Real, float)):
    for _name in ("eq", "ne", "lt", "le", "gt", "ge", "bool"):
        setattr(_class, f"__{_name}__", _comparison(f"__{_name}__", _kind))
    _class.__hash__ = _kind.__hash__  # type: ignore[method-assign]
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    for _class in (Size, Real):
        setattr(_class, f"__{_name}__", _binary(getattr(operator, _name), False))
        setattr(_class, f"__r{_name}__", _binary(getattr(operator, _name), True))
for _class in (Size, Real):
    _class.__neg__ = _unary(operator.neg)  # type: ignore[method-assign]
for _name in ("ceil", "floor"):
    setattr(Real, f"__{_name}__", _unary(getattr(math, _name)))
