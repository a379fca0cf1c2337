"""Recording every way that the code of one module can go.

A layer that stays one node of the network runs its own code later: in training and in evaluation, compiled or not, on
batches of other sizes, after many steps. What a recording shows of the layer must hold for all of these. Example:

    def forward(self, x):
        weight = self.weight / self.weight.std() if self.training else self.weight / 2
        return F.linear(x, weight)

The recording in evaluation mode does not have the node `std`, the recording in training mode has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from torch import nn

from hat.tracing.errors import ConversionError
from hat.tracing.nodes import Nodes
from hat.tracing.trace import recorded
from hat.tracing.trees import flat
from hat.tracing.untouched import untouched


def ways(module: nn.Module, example: tuple[Any, ...]) -> Iterator[Nodes]:
    """The recordings of a module in training and in evaluation, compiled and not; the module is left as it was.

    They show all that the module computes, in any call: values that a recording would take for constants are refused.

    Args:
        module: all calls inside of it are recorded.
        example: the arguments of a call.

    Raises:
        ConversionError: a graph cannot show what the module computes, see `trace`. Or the module decides by the sizes
            of its inputs, uses a tensor from outside of the call, or changes an attribute of its own when it runs.
    """
    for learning, compiling in product((False, True), (False, True)):
        with untouched(module):
            module.train(learning)
            before = _attributes(module)
            nodes = recorded(module, example, lambda part, name: False, learning=learning, compiling=compiling)
            module.train(learning)
            after = _attributes(module)
        if len(before) != len(after) or any(one is not other for one, other in zip(before, after, strict=True)):
            raise ConversionError(f"{type(module).__name__}: changes its own attributes when it runs")
        places = [*nodes.decided, *nodes.burnt, *nodes.constants]
        if places:
            raise ConversionError(
                f"{places[0]}: depends on sizes of the input, or on a tensor from outside of the call"
            )
        yield nodes


def _attributes(module: nn.Module) -> list[Any]:
    """All attributes of a module and its parts, and what is in their containers, in order."""
    attributes = [value for part in module.modules() for value in vars(part).values()]
    return [element for value in attributes for element in (value, *_elements(value))]


def _elements(value: Any) -> list[Any]:
    return (
        list(value) if isinstance(value, set) else [*flat(value, keys=True)] if isinstance(value, dict | list) else []
    )
