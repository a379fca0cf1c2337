"""Checking that units which a graph moves lie where the layouts say.

The values of new units cannot show this, because there are no old values to compare them with. So an operation that
moves units, as `transpose` or `cat`, runs on the numbers of the units.

Example: `h` has the units [[0, 1, 2], [3, 4, 5]], and the graph computes `h.transpose(0, 1)`. Run on these numbers, the
operation gives [[0, 3], [1, 4], [2, 5]]. The layout of the result must be the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from hat.conversion.body import Converted
from hat.conversion.rules.movement import moves
from hat.units.layout import Layout


def lie_as_said(body: Converted, node: fx.Node, values: dict[str, Any]) -> bool:
    """Whether the units of a node's value lie where its layout says. True for a node that does not move units.

    Args:
        body: the converted network.
        node: a node of its graph.
        values: the values of this node and of all nodes before, by name.
    """
    if not moves(node, body.network):
        return True

    def labels_of_node(argument: fx.Node) -> Any:
        return _labels(values[argument.name], body.layouts.get(argument.name))

    args, kwargs = fx.map_arg(node.args, labels_of_node), fx.map_arg(node.kwargs, labels_of_node)
    try:
        moved_labels = _run(node, body.network, args, kwargs)
    except Exception:  # some operations do not take integers
        return False
    return _alike(moved_labels, _labels(values[node.name], body.layouts.get(node.name)))


def _labels(value: Any, layout: Any) -> Any:
    """The number of the unit in place of every element of a value; -1 for elements of no unit.

    Values that pick, as integer tensors without a layout, stay as they are.
    """
    if isinstance(value, tuple | list):
        layouts = layout if isinstance(layout, tuple) else [None] * len(value)
        return tuple(map(_labels, value, layouts))
    if not isinstance(value, Tensor) or not (value.is_floating_point() or isinstance(layout, Layout)):
        return value
    units = layout.units if isinstance(layout, Layout) else torch.tensor(-1)
    return units.expand(value.shape).contiguous()


def _run(node: fx.Node, network: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the operation of a node on these arguments."""
    if node.op == "call_module":
        return network.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _alike(moved: Any, expected: Any) -> bool:
    """Whether labels are equal to the expected labels."""
    if isinstance(expected, tuple):
        return len(moved) == len(expected) and all(map(_alike, moved, expected))
    return not isinstance(expected, Tensor) or torch.equal(moved, expected)
