"""The head of a network, its last layer, which tells classes apart. Every task has its own head, so it is removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from hat.tracing.errors import ConversionError
from hat.tracing.names import operation, place_of
from hat.tracing.untouched import evaluating


def find_head(network: fx.GraphModule, head: str | None) -> str | None:
    """The name of the head in the graph.

    Args:
        network: the graph.
        head: `"last"`, a name, or None for no head.

    Raises:
        ConversionError: the head is not a linear layer or a convolution with a kernel of 1, or is called twice.
    """
    if head is None:
        return None
    calls = [node for node in network.graph.nodes if node.op == "call_module"]
    if head != "last":
        calls_of_head = [node for node in calls if node.target == head]
        if len(calls_of_head) != 1 or not _tells_classes(network, calls_of_head[0]):
            raise ConversionError(f"head: expected the name of a linear layer that is called once, got {head!r}")
        return head
    node = network.graph.output_node().args[0]
    while isinstance(node, fx.Node) and not _tells_classes(network, node):
        if not _passes_on(network, node):
            raise ConversionError(
                f"{place_of(node)}: expected the network to end with a linear layer, which every task has for itself; "
                "name it by `head`, or pass head=None to put heads behind what the network answers"
            )
        node = node.args[0]
    if not isinstance(node, fx.Node):
        raise ConversionError("the network: expected it to answer with one tensor; wrap it in a module that does")
    if sum(call.target == node.target for call in calls) > 1:
        raise ConversionError(f"{place_of(node)}: expected a head of its own, but it is called twice; pass head=None")
    return str(node.target)


def take_off(network: fx.GraphModule, name: str) -> nn.Module:
    """Remove the call of a layer from the graph, so that its input passes through; return the layer."""
    layer = network.get_submodule(name)
    (node,) = [node for node in network.graph.nodes if node.op == "call_module" and node.target == name]
    node.replace_all_uses_with(node.args[0])
    network.graph.erase_node(node)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return layer


def _tells_classes(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module":
        return False
    module = network.get_submodule(str(node.target))
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == module.stride == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _passes_on(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a dropout or changes only the shape, so that the head may stand in front of the node."""
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), nn.Identity | nn.Dropout | nn.Flatten)
    return operation(node) in ("flatten", "squeeze", "view", "reshape", "contiguous") and bool(node.args)


class _Recording(fx.Interpreter):
    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


def run(network: fx.GraphModule, example: Sequence[Any]) -> dict[fx.Node, Any]:
    """The value of every node on the example, in evaluation mode."""
    recording = _Recording(network)
    with torch.no_grad(), evaluating(network):
        recording.run(*example)
    return recording.values
