"""Numbers that Python made of a batch size, found by recording a batch of another size."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from hat.tracing.nodes import Nodes


def follow(nodes: Nodes, other: Nodes) -> bool:
    """Make numbers of one recording that another batch size changes to functions of the batch size.

    `int(windows.shape[0] / count)` is such a number: Python takes nothing but a plain int for its answer. What two
    sizes show is taken for `a B + c`; whether it is so, a third has to show.

    Returns:
        Whether something was changed; nothing is where the two recordings do not consist of the same calls.
    """
    pairs = list(zip(nodes.graph.nodes, other.graph.nodes, strict=False))
    if len(nodes.graph.nodes) != len(other.graph.nodes) or any(map(_differ, pairs)):
        return False
    first = next((node for node, value in nodes.values.items() if isinstance(value, Tensor) and value.dim()), None)
    twin = dict(pairs).get(first)
    if first is None or twin is None:
        return False
    sizes = len(nodes.values[first]), len(other.values[twin])
    following = _Following(nodes, first, sizes)
    for one, two in pairs:
        one.args, one.kwargs = following.merged(one, (one.args, one.kwargs), (two.args, two.kwargs))
    return following.changed


def _differ(pair: tuple[fx.Node, fx.Node]) -> bool:
    names = [(node.op, getattr(node.target, "__name__", node.target)) for node in pair]
    return names[0] != names[1]


class _Following:
    """Puts functions of the batch size in the place of numbers.

    Args:
        nodes: the recording that changes.
        first: the input whose first dimension is the batch.
        sizes: of the batch, in this recording and in the other one; they differ.
    """

    def __init__(self, nodes: Nodes, first: fx.Node, sizes: tuple[int, int]) -> None:
        self.nodes, self.first, self.sizes = nodes, first, sizes
        self.changed = False

    def merged(self, node: fx.Node, one: Any, other: Any) -> Any:
        """An argument of the node, given what it is in either recording."""
        if type(one) is not type(other) or isinstance(one, fx.Node):
            return one
        if isinstance(one, tuple | list) and len(one) == len(other):
            return type(one)(self.merged(node, *each) for each in zip(one, other, strict=True))
        if isinstance(one, dict):
            return {key: self.merged(node, each, other.get(key)) for key, each in one.items()}
        if isinstance(one, slice):
            return slice(*(self.merged(node, getattr(one, k), getattr(other, k)) for k in ("start", "stop", "step")))
        steps, change = self.sizes[1] - self.sizes[0], 0 if not isinstance(one, int) else other - one
        if isinstance(one, bool) or not change or change % steps:
            return one
        self.changed = True
        return self._function(node, change // steps, one - change // steps * self.sizes[0])

    def _function(self, node: fx.Node, factor: int, offset: int) -> fx.Node:
        with self.nodes.graph.inserting_before(node):
            shape = self._call(getattr, (self.first, "shape"), self.nodes.values[self.first].shape)
            batch = self._call(operator.getitem, (shape, 0), self.sizes[0])
            found = batch if factor == 1 else self._call(operator.mul, (batch, factor), self.sizes[0] * factor)
            return found if not offset else self._call(operator.add, (found, offset), self.sizes[0] * factor + offset)

    def _call(self, function: Any, args: tuple[Any, ...], value: int | torch.Size) -> fx.Node:
        node = self.nodes.graph.call_function(function, args)
        self.nodes.values[node] = value
        return node
