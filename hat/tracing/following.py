"""Plain numbers that depend on the batch size, discovered by recording the network again on a larger batch.

Example: a module calls `x.view(int(x.shape[0] / 2), -1)`. `int` gives a plain number, so the graph on a batch of 4 has
`view(x, 2, -1)`, and would fail on a batch of 6. The recording on a batch of 5 has the same call with another number
if the number depends on the batch size. Two sizes B and two numbers n give `n = a B + c`, and the graph gets nodes that
compute `a B + c` in place of the number. A third batch size then checks the graph, see `hat.tracing.trace`.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from hat.tracing.nodes import Nodes


def follow(nodes: Nodes, larger: Nodes) -> bool:
    """Replace the numbers that differ between two recordings by functions `a B + c` of the batch size B, in place.

    Args:
        nodes: the recording to change.
        larger: a recording of the same network on a larger batch.

    Returns:
        Whether a number was replaced. No number is replaced if the two recordings consist of different calls.
    """
    pairs = list(zip(nodes.graph.nodes, larger.graph.nodes, strict=False))
    if len(nodes.graph.nodes) != len(larger.graph.nodes) or any(map(_differ, pairs)):
        return False
    batch_input = next((key for key, value in nodes.values.items() if isinstance(value, Tensor) and value.dim()), None)
    twin_of_input = dict(pairs).get(batch_input)
    if batch_input is None or twin_of_input is None:
        return False
    sizes = len(nodes.values[batch_input]), len(larger.values[twin_of_input])
    following = _Following(nodes, batch_input, sizes)
    for node, twin in pairs:
        node.args, node.kwargs = following.merged(node, (node.args, node.kwargs), (twin.args, twin.kwargs))
    return following.changed


def _differ(pair: tuple[fx.Node, fx.Node]) -> bool:
    names = [(node.op, getattr(node.target, "__name__", node.target)) for node in pair]
    return names[0] != names[1]


class _Following:
    """Puts functions of the batch size in the place of numbers.

    Args:
        nodes: the recording to change.
        batch_input: the input whose first dimension is the batch.
        sizes: the batch size in `nodes` and in the other recording; the two differ.

    Attributes:
        changed: a number was replaced.
    """

    def __init__(self, nodes: Nodes, batch_input: fx.Node, sizes: tuple[int, int]) -> None:
        self.nodes, self.batch_input, self.sizes = nodes, batch_input, sizes
        self.changed = False

    def merged(self, node: fx.Node, value: Any, twin_value: Any) -> Any:
        """An argument of `node`, made from its values in the two recordings."""
        if type(value) is not type(twin_value) or isinstance(value, fx.Node):
            return value
        if isinstance(value, tuple | list) and len(value) == len(twin_value):
            return type(value)(self.merged(node, *element) for element in zip(value, twin_value, strict=True))
        if isinstance(value, dict):
            return {key: self.merged(node, element, twin_value.get(key)) for key, element in value.items()}
        if isinstance(value, slice):
            ends = [(getattr(value, end), getattr(twin_value, end)) for end in ("start", "stop", "step")]
            return slice(*(self.merged(node, *pair) for pair in ends))
        steps, change = self.sizes[1] - self.sizes[0], 0 if not isinstance(value, int) else twin_value - value
        if isinstance(value, bool) or not change or change % steps:
            return value
        self.changed = True
        return self._function(node, change // steps, value - change // steps * self.sizes[0])

    def _function(self, node: fx.Node, factor: int, offset: int) -> fx.Node:
        """A new node before `node` that computes `factor * batch size + offset`."""
        with self.nodes.graph.inserting_before(node):
            shape = self._call(getattr, (self.batch_input, "shape"), self.nodes.values[self.batch_input].shape)
            batch = self._call(operator.getitem, (shape, 0), self.sizes[0])
            number = batch if factor == 1 else self._call(operator.mul, (batch, factor), self.sizes[0] * factor)
            return number if not offset else self._call(operator.add, (number, offset), self.sizes[0] * factor + offset)

    def _call(self, function: Any, args: tuple[Any, ...], value: int | torch.Size) -> fx.Node:
        node = self.nodes.graph.call_function(function, args)
        self.nodes.values[node] = value
        return node
