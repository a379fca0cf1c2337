"""Making a module of a graph."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from hat.tracing.nodes import Nodes


def assembled(module: nn.Module, nodes: Nodes) -> fx.GraphModule:
    """The graph as a module, with what it refers to under the names that it has in the network."""
    shell = nn.Module()
    used = {str(node.target) for node in nodes.graph.nodes if node.op in ("call_module", "get_attr")}
    for target in sorted(used, key=lambda name: name.count(".")):
        _install(shell, target.split("."), nodes.targets[target])
    found = fx.GraphModule(shell, nodes.graph, type(module).__name__)
    owners = dict(module.named_modules())
    for name in used:  # fx makes every buffer one that is saved
        path, _, field = name.rpartition(".")
        if path in owners and field in owners[path]._non_persistent_buffers_set:
            found.get_submodule(path)._non_persistent_buffers_set.add(field)
    return found


def _install(module: nn.Module, path: list[str], value: Any) -> None:
    for name in path[:-1]:
        if getattr(module, name, None) is None:
            module.add_module(name, nn.Module())
        module = getattr(module, name)
    if getattr(module, path[-1], None) is value:  # of a layer that is there as a whole
        return
    if isinstance(value, nn.Parameter | nn.Module):
        setattr(module, path[-1], value)
    else:
        module.register_buffer(path[-1], value)
