"""Quotients. A quotient by a tensor that has units becomes a product with the reciprocal of the tensor.

A gate sets units that are off to 0, and 0 / 0 is not a number. Behind the reciprocal a gate does no harm. So a tensor
that is gated already cannot be a divisor.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from hat.conversion.analysis import Analysis, Args, Kwargs, Rule
from hat.conversion.rules.elementwise import multiply, unary
from hat.conversion.values import Value
from hat.tracing.errors import ConversionError
from hat.tracing.names import place_of


def _div(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    x, y = args[:2]
    if not isinstance(x, Value):
        return unary(analysis, y, keeps_zero=False)
    if not isinstance(y, Value):
        return unary(analysis, x, keeps_zero=True)
    if y.labels is not None and not y.is_parameter:
        if kwargs.get("rounding_mode") is not None:
            return None
        if y.gated:
            raise ConversionError(
                f"{place_of(node)}: divides by units that are 0 for a task that does not use them; add a small number "
                "to what divides, or exclude the module by `filter`"
            )
        y = _inverted(analysis, node, y)
    return multiply(analysis, x, y, analysis.concrete[node].shape)


def _inverted(analysis: Analysis, node: fx.Node, y: Value) -> Value:
    """Make the quotient a product in the graph too, so that a gate can be put behind the reciprocal."""
    divisor: Any = node.args[1]
    with node.graph.inserting_before(node):
        inverse = node.graph.call_function(torch.reciprocal, (divisor,))
    node.op, node.target, node.args, node.kwargs = "call_function", operator.mul, (node.args[0], inverse), {}
    value = unary(analysis, y, keeps_zero=False)
    analysis.add(inverse, value, torch.reciprocal(analysis.concrete[divisor]))
    return value


RULES: dict[str, Rule] = dict.fromkeys(("div", "__truediv__"), _div)
