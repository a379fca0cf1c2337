"""Making a module from a recorded graph."""

from __future__ import annotations

from typing import Any

from torch import nn

from hat.tracing.graph_module import GraphModule
from hat.tracing.nodes import Nodes


def assembled(module: nn.Module, nodes: Nodes) -> GraphModule:
    """The graph as a module. Layers, parameters and buffers keep the names that they have in the network.

    Args:
        module: the network that was recorded.
        nodes: the recording.
    """
    shell = nn.Module()
    targets = {str(node.target) for node in nodes.graph.nodes if node.op in ("call_module", "get_attr")}
    for target in sorted(targets, key=lambda target: target.count(".")):
        _install(shell, target.split("."), nodes.targets[target])
    graph_module = GraphModule(shell, nodes.graph, type(module).__name__)
    owners = dict(module.named_modules())
    for target in targets:  # fx makes every buffer persistent
        owner, _, field = target.rpartition(".")
        if owner in owners and field in owners[owner]._non_persistent_buffers_set:
            graph_module.get_submodule(owner)._non_persistent_buffers_set.add(field)
    return graph_module


def _install(module: nn.Module, path: list[str], value: Any) -> None:
    """Set the attribute at `path`, and make the empty modules that lead to it."""
    for name in path[:-1]:
        if getattr(module, name, None) is None:
            module.add_module(name, nn.Module())
        module = getattr(module, name)
    if getattr(module, path[-1], None) is value:  # part of a layer that is installed already
        return
    if isinstance(value, nn.Parameter | nn.Module):
        setattr(module, path[-1], value)
    else:
        module.register_buffer(path[-1], value)
