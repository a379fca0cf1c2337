"""Recording every way that the code of one module can go.

A layer that stays one node of the network runs its own code later: in training and in evaluation, compiled or not, on
batches of other sizes, after many steps. What a recording shows of the layer must hold for all of these. Example:

    def forward(self, x):
        weight = self.weight / self.weight.std() if self.training else self.weight / 2
        return F.linear(x, weight)

The recording in evaluation mode does not have the node `std`, the recording in training mode has it. In the same way, a
comparison of sizes, as in `if x.shape[0] > 64`, is answered with no and with yes, whatever the size is.
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

_MOST = 64  # a layer that pads its input to the size of the output compares two sizes, which are 4 ways


def ways(module: nn.Module, example: tuple[Any, ...]) -> Iterator[Nodes]:
    """The recordings of a module in training and in evaluation, compiled and not, with every outcome of comparisons.

    They show all that the module computes, in any call: values that a recording would take for constants are refused.
    The module is left as it was.

    Args:
        module: all calls inside of it are recorded.
        example: the arguments of a call.

    Raises:
        ConversionError: a graph cannot show what the module computes, see `trace`. Or the module goes too many ways,
            turns a size of its inputs into a plain number, uses a tensor from outside of the call, or changes an
            attribute of its own when it runs.
    """
    for learning, compiling in product((False, True), (False, True)):
        untried: list[tuple[bool, ...]] = [()]
        for _ in range(_MOST):
            outcomes = untried.pop()
            nodes = _way(module, example, learning=learning, compiling=compiling, outcomes=outcomes)
            yield nodes
            decided = tuple(nodes.decided)
            untried += [(*decided[:index], not decided[index]) for index in range(len(outcomes), len(decided))]
            if not untried:
                break
        else:
            raise ConversionError(f"{type(module).__name__}: goes more than {_MOST} ways by sizes of its inputs")


def _way(module: nn.Module, example: tuple[Any, ...], *, learning: bool, **options: Any) -> Nodes:
    """One of the recordings of `ways`."""
    with untouched(module):
        module.train(learning)
        before = _attributes(module)
        nodes = recorded(module, example, lambda part, name: False, learning=learning, **options)
        module.train(learning)
        after = _attributes(module)
    if len(before) != len(after) or any(one is not other for one, other in zip(before, after, strict=True)):
        raise ConversionError(f"{type(module).__name__}: changes its own attributes when it runs")
    places = [*nodes.burnt, *nodes.constants]
    if places:
        raise ConversionError(f"{places[0]}: depends on sizes of the input, or on a tensor from outside of the call")
    return nodes


def _attributes(module: nn.Module) -> list[Any]:
    """All attributes of a module and its parts, and what is in their containers, in order."""
    attributes = [value for part in module.modules() for value in vars(part).values()]
    return [element for value in attributes for element in (value, *_elements(value))]


def _elements(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        return [*flat(value, keys=True)]
    return list(value) if isinstance(value, set) else []
