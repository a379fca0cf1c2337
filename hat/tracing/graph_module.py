"""A graph as a module that is pickled node by node.

`torch.fx.GraphModule` pickles its code, and runs the code on stand-ins of the inputs to make the graph again. What the
code computes without such a stand-in is computed at that moment. In `ids[:, : x.shape[1]]`, where `ids` is a buffer, a
stand-in is the end of a slice of a real tensor, which is an error. `ids + 1` becomes a constant that does not follow
its buffer. And the nodes get other names. So the nodes themselves are written, for example

    ("getitem", "call_function", operator.getitem, (_Node("ids"), (slice(None), slice(None, _Node("size")))), {})
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate


@dataclass(frozen=True)  # not a tuple: the arguments of a node are searched through tuples
class _Node:
    """Stands in a pickle for the node of this name."""

    name: str


@dataclass(frozen=True)
class _Operator:
    """Stands in a pickle for an operator of `torch.ops`, which cannot be pickled, for example `aten.add.Tensor`."""

    name: str


class GraphModule(fx.GraphModule):
    """As `torch.fx.GraphModule`, but pickled node by node. A copy also keeps which buffers are persistent."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty, (type(self).__name__,), (self._attributes(), self._nodes())

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphModule:
        memo[id(self)] = copied = _empty(type(self).__name__)
        copied.__setstate__((copy.deepcopy(self._attributes(), memo), self._nodes()))
        return copied

    def __setstate__(self, state: tuple[dict[str, Any], list[Any]]) -> None:
        attributes, nodes = state
        super().__setstate__(attributes)
        graph, by_name = fx.Graph(), {}
        for name, op, target, arguments in nodes:
            args, kwargs = map_aggregate(arguments, lambda arg: by_name[arg.name] if isinstance(arg, _Node) else arg)
            by_name[name] = graph.create_node(op, _unpickled(target), args, kwargs, name=name)
        self.graph = graph

    def _attributes(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_graph"}

    def _nodes(self) -> list[Any]:
        """(name, op, target, (args, kwargs)) of every node, without references to nodes."""

        def stand_in(argument: Any) -> Any:
            return _Node(argument.name) if isinstance(argument, fx.Node) else argument

        nodes = self.graph.nodes
        return [(n.name, n.op, _pickled(n.target), map_aggregate((n.args, n.kwargs), stand_in)) for n in nodes]


def loads_as_code(root: nn.Module, graph: fx.Graph) -> bool:
    """Whether `torch.fx.GraphModule` loads a graph as it was: all is computed from inputs, parameters and modules.

    Args:
        root: has the modules and tensors of the graph.
        graph: the graph.
    """
    reads = [reduce(getattr, str(node.target).split("."), root) for node in graph.find_nodes(op="get_attr")]
    calls = [node for node in graph.nodes if node.op in ("call_function", "call_method")]
    return all(isinstance(read, nn.Parameter) for read in reads) and all(node.all_input_nodes for node in calls)


def _empty(class_name: str) -> GraphModule:
    module = GraphModule.__new__(GraphModule)
    type(module).__name__ = class_name
    return module


def _pickled(target: Any) -> Any:
    is_operator = isinstance(target, torch._ops.OpOverload | torch._ops.OpOverloadPacket)
    return _Operator(str(target)) if is_operator else target


def _unpickled(target: Any) -> Any:
    return reduce(getattr, target.name.split("."), torch.ops) if isinstance(target, _Operator) else target
