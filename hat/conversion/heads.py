"""The head of a network, its last layer, which tells classes apart. Every task has its own head, so it is removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.layers.transposed import TransposedLinear
from hat.tracing.errors import ConversionError
from hat.tracing.names import operation, place_of, placed
from hat.tracing.untouched import evaluating


def find_head(network: fx.GraphModule, head: str | None) -> str | None:
    """The name of the head in the graph: the layer that the network answers with.

    Args:
        network: the graph.
        head: `"last"`, the name that this layer must have, or None for no head.

    Raises:
        ConversionError: the head is not a linear layer or a convolution with a kernel of 1, or is called twice, or has
            another name.
    """
    if head is None:
        return None
    last = _last(network)
    if not isinstance(last, fx.Node):
        raise ConversionError("the network: expected it to answer with one tensor; wrap it in a module that does")
    answers = _tells_classes(network, last)
    calls = [node for node in network.graph.nodes if node.op == "call_module" and node.target == last.target]
    if head not in ("last", last.target if answers else None) or (head != "last" and len(calls) > 1):
        what = str(last.target) if answers else f"{place_of(last)}, which is no such layer"
        raise ConversionError(
            "head: expected the name of a linear layer that is called once and that the network answers with, got "
            f"{head!r}; it answers with {what}{' (called twice)' if len(calls) > 1 else ''}"
        )
    if not answers:
        raise ConversionError(
            f"{place_of(last)}: expected the network to end with a linear layer, which every task has for itself; "
            "let the network answer with what this layer gives, or pass head=None to put heads behind its answer"
        )
    if len(calls) > 1:
        raise ConversionError(f"{place_of(last)}: expected a head of its own, but it is called twice; pass head=None")
    return str(last.target)


def _last(network: fx.GraphModule) -> Any:
    """The node that the network answers with, in front of all nodes that pass its value on."""
    node = network.graph.output_node().args[0]
    while isinstance(node, fx.Node) and not _tells_classes(network, node) and _passes_on(network, node):
        node = node.args[0]
    return node


def check_shape(name: str, taken: nn.Module, before: Any, answer: Tensor) -> None:
    """Check that without its head a network answers with the inputs of the head, in the shape of its answer.

    Calls behind the head can give another shape to fewer or more values, as `view(-1, classes)`.

    Args:
        name: of the head.
        taken: the head.
        before: the answer of the network with its head.
        answer: the answer without.

    Raises:
        ConversionError: the shapes do not fit.
    """
    if isinstance(taken, nn.Conv2d) and answer.dim() > 2:
        raise ConversionError(
            f"head: expected {name}, a convolution, before a flatten to [B, F], got maps {tuple(answer.shape)}; pool "
            "and flatten the maps, or wrap the network in a module that returns the features for the heads"
        )
    leading = answer.shape[:-1]
    if leading not in (before.shape[:-1], before.shape):  # a call behind the head may squeeze its only class
        raise ConversionError(
            f"head: expected only calls behind {name} that do not depend on the number of classes, got an answer of "
            f"shape {tuple(before.shape)} with and {tuple(answer.shape)} without it; let the network answer with what "
            f"{name} gives"
        )


def take_off(network: fx.GraphModule, name: str) -> nn.Module:
    """Remove the call of a layer from the graph, so that its input passes through; return the layer."""
    layer = network.get_submodule(name)
    (node,) = [node for node in network.graph.nodes if node.op == "call_module" and node.target == name]
    node.replace_all_uses_with(node.all_input_nodes[0])
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
    return isinstance(module, nn.Linear | TransposedLinear)


def _passes_on(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a dropout or changes only the shape, so that the head may stand in front of the node."""
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), nn.Identity | nn.Dropout | nn.Flatten)
    return operation(node) in ("flatten", "squeeze", "view", "reshape", "contiguous") and bool(node.args)


class _Recording(fx.Interpreter):
    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network, garbage_collect_values=False)
        self.extra_traceback = False  # of several lines
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        with placed(n):
            self.values[n] = super().run_node(n)
        return self.values[n]


def run(network: fx.GraphModule, example: Sequence[Any]) -> dict[fx.Node, Any]:
    """The value of every node on the example, in evaluation mode."""
    recording = _Recording(network)
    with torch.no_grad(), evaluating(network):
        recording.run(*example)
    return recording.values
