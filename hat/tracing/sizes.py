"""Numbers that know where they come from: sizes of tensors, and what Python computes of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Protocol

from torch import fx


class Ledger(Protocol):
    """Who records what Python computes of sizes; see `hat.tracing.nodes.Nodes`."""

    def arithmetic(self, operation: Callable[..., Any], *numbers: Any) -> Any: ...

    def burn(self) -> None: ...


class _Traced:
    """What a number and its node have in common; see `Size`."""

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
    """An int that Python takes for one, and whose arithmetic is recorded, so that it follows another batch size.

    Comparisons, and what needs a plain int (`range`, `int`), are answered from the value on the example.
    """


class Real(_Traced, float):
    """What `Size` is, of a float."""


def number(value: Any, node: fx.Node, nodes: Ledger) -> Any:
    """`value` as a number that knows its node, if it is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return (Size if isinstance(value, int) else Real)(value, node, nodes)


def plain(value: Any) -> Any:
    """The number alone."""
    if isinstance(value, Size):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, Real) else value


def _binary(operation: Callable[..., Any], reflected: bool) -> Callable[..., Any]:
    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        return self.nodes.arithmetic(operation, *((other, self) if reflected else (self, other)))

    return method


def _unary(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: self.nodes.arithmetic(operation, self)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    for _class in (Size, Real):
        setattr(_class, f"__{_name}__", _binary(getattr(operator, _name), False))
        setattr(_class, f"__r{_name}__", _binary(getattr(operator, _name), True))
for _class in (Size, Real):
    _class.__neg__ = _unary(operator.neg)  # type: ignore[method-assign]
for _name in ("ceil", "floor"):
    setattr(Real, f"__{_name}__", _unary(getattr(math, _name)))
