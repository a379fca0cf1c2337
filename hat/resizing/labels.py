"""Units that a graph moves must lie where the layouts say: those that have joined, too, which no value shows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from hat.conversion.body import Converted
from hat.conversion.rules.movement import moves
from hat.units.layout import Layout


def lie_as_said(body: Converted, node: fx.Node, values: dict[str, Any]) -> bool:
    """Whether what a node moves comes where the layout of its value has it; True for a node that moves nothing.

    Args:
        body: its graph and its layouts.
        node: of the graph.
        values: of all nodes before it and of itself, by name.
    """
    if not moves(node, body.network):
        return True

    def labels(each: fx.Node) -> Any:
        return _labels(values[each.name], body.layouts.get(each.name))

    args, kwargs = fx.map_arg(node.args, labels), fx.map_arg(node.kwargs, labels)
    try:
        found = _run(node, body.network, args, kwargs)
    except Exception:  # whatever an operation makes of integers
        return False
    return _alike(found, _labels(values[node.name], body.layouts.get(node.name)))


def _labels(value: Any, layout: Any) -> Any:
    """The number of the unit in place of every number, -1 for none; what picks is what it is."""
    if isinstance(value, tuple | list):
        layouts = layout if isinstance(layout, tuple) else [None] * len(value)
        return tuple(map(_labels, value, layouts))
    if not isinstance(value, Tensor) or not (value.is_floating_point() or isinstance(layout, Layout)):
        return value
    units = layout.units if isinstance(layout, Layout) else torch.tensor(-1)
    return units.expand(value.shape).contiguous()


def _run(node: fx.Node, network: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if node.op == "call_module":
        return network.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _alike(found: Any, said: Any) -> bool:
    if isinstance(said, tuple):
        return len(found) == len(said) and all(map(_alike, found, said))
    return not isinstance(said, Tensor) or torch.equal(found, said)
