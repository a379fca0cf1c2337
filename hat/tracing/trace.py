"""Turning any `nn.Module` into a graph of what it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from hat.tracing.assembly import assembled
from hat.tracing.checks import check, other, refuse_hidden
from hat.tracing.errors import ConversionError
from hat.tracing.following import follow
from hat.tracing.leaves import is_leaf
from hat.tracing.nodes import Nodes
from hat.tracing.recorder import Recorder
from hat.tracing.untouched import untouched


@dataclass(frozen=True)
class Traced:
    """What `trace` returns.

    Attributes:
        graph_module: computes what the module does, with its own layers, parameters and buffers under their own names.
        values: of every node of the graph, what came out on the example: tensors without gradients, numbers, tuples.
    """

    graph_module: fx.GraphModule
    values: dict[fx.Node, Any]


def trace(module: nn.Module, example: tuple[Any, ...], *, leaves: Callable[[nn.Module, str], bool] = is_leaf) -> Traced:
    """The graph of what a module computes in evaluation mode, which drops in training mode what the module drops.

    The module is run on the example and left as it was. What Python decides (a comparison of sizes, the length of a
    loop) is decided for good; sizes that are passed on are not, so the graph takes another batch size. Changes in place
    become new tensors. The graph is then compared with the module, bit for bit: on the example, and on other values in
    a batch of another size.

    Args:
        module: any.
        example: the positional arguments of a call; batches of two samples at least show more.
        leaves: (module, name) -> whether it is one node of the graph; others are traced through.

    Raises:
        ConversionError: the module has hooks, changes parts of tensors or its own state in place, depends on values
            where Python decides, or answers differently from the graph. The message names the place.
    """
    refuse_hidden(module)
    # In training mode it may do what a graph cannot, and look at values that it leaves alone while it is compiled.
    with untouched(module):
        for learning, compiling in ((True, False), (True, True)):
            with suppress(ConversionError):
                return _trace(module, example, leaves, learning, compiling)
        return _trace(module, example, leaves, False, False)


def _trace(module: nn.Module, example: tuple[Any, ...], leaves: Any, learning: bool, compiling: bool) -> Traced:
    def recorded(inputs: tuple[Any, ...]) -> Nodes:
        recorder = Recorder(module, leaves, learning)
        with untouched(module), _compiling(compiling):
            for name, each in module.named_modules():
                stays = bool(name) and leaves(each, name)
                each.training = learning and not stays and not isinstance(each, nn.modules.batchnorm._BatchNorm)
            _record(recorder, module, inputs)
        return recorder.nodes

    nodes = recorded(example)
    followed = False
    if nodes.burnt:
        with suppress(ConversionError):
            followed = follow(nodes, recorded(other(example, more=1)))
    for node in reversed(nodes.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            nodes.graph.erase_node(node)
    graph_module = assembled(module, nodes).eval()
    check(module, graph_module, example, [*nodes.burnt, *nodes.constants], more=3 if followed else 1)
    graph_module.train(module.training)
    return Traced(graph_module, {node: nodes.values[node] for node in nodes.graph.nodes})


def _record(recorder: Recorder, module: nn.Module, example: tuple[Any, ...]) -> None:
    names = _names(module, example)
    inputs = [recorder.nodes.placeholder(name, value) for name, value in zip(names, example, strict=True)]
    try:
        with recorder.recording():
            recorder.nodes.output(module._call_impl(*inputs))
    except Exception as error:
        explained = recorder.explain(error)
        raise explained from (None if explained is error else error)


@contextmanager
def _compiling(answer: bool) -> Iterator[None]:
    """What `torch.compiler.is_compiling` answers inside the `with` block."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = answer
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def _names(module: nn.Module, example: tuple[Any, ...]) -> list[str]:
    """What the module calls its arguments.

    Raises:
        ConversionError: it does not take as many.
    """
    try:
        bound = inspect.signature(module.forward).bind(*example)
    except TypeError as error:
        raise ConversionError(f"example: expected the arguments of {type(module).__name__}.forward: {error}") from None
    names: list[str] = []
    for name, value in bound.arguments.items():
        several = bound.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        names += [f"{name}_{index}" for index in range(len(value))] if several else [name]
    return names
