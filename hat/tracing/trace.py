"""Turning any `nn.Module` into a graph of the functions and layers that the module calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from hat.tracing.assembly import assembled
from hat.tracing.checks import check, other_inputs, refuse_hidden
from hat.tracing.errors import ConversionError
from hat.tracing.following import follow
from hat.tracing.leaves import is_leaf
from hat.tracing.nodes import Nodes
from hat.tracing.recorder import Recorder
from hat.tracing.untouched import evaluating, untouched


@dataclass(frozen=True)
class Traced:
    """A traced module.

    Attributes:
        graph_module: computes what the module computes. It has the layers, parameters and buffers of the module, not
            copies, under the same names.
        values: the value of every node of the graph on the example: tensors without gradients, numbers, tuples.
        learning: the module was recorded in training mode, so the graph has all functions that it calls in training.
    """

    graph_module: fx.GraphModule
    values: dict[fx.Node, Any]
    learning: bool

    @property
    def answer(self) -> Any:
        """What the module answers on the example."""
        return next(value for node, value in self.values.items() if node.op == "output")


def trace(module: nn.Module, example: tuple[Any, ...], *, leaves: Callable[[nn.Module, str], bool] = is_leaf) -> Traced:
    """The graph of what a module computes.

    In evaluation mode the graph computes what the module computes; in training mode it also has the module's dropout.
    The module is run on the example and is left as it was. A decision of Python (a comparison of sizes, the length of a
    loop) is fixed by the example. Arithmetic of sizes is recorded, so the graph takes another batch size. Changes in
    place become new tensors.

    The graph is compared with the module, bit for bit: on the example, and on other values in a larger batch.

    Args:
        module: the module; of any class.
        example: the positional arguments of a call. With batches of two or more samples the comparison shows more.
        leaves: (module, name) -> whether the module becomes one node of the graph. Other modules are replaced by the
            calls inside of them.

    Raises:
        ConversionError: the module has hooks, changes parts of tensors or its own state in place, lets a decision of
            Python depend on values of tensors, or answers differently from the graph. The message names the place.
    """
    refuse_hidden(module)
    # Training mode shows dropout, but the module may do things in training that a graph cannot express; and it may read
    # values of tensors unless `torch.compiler.is_compiling`. So three ways are tried, the best first.
    with untouched(module):
        for learning, compiling in ((True, False), (True, True)):
            with suppress(ConversionError):
                return _trace(module, example, leaves, learning, compiling)
        return _trace(module, example, leaves, False, False)


def _trace(module: nn.Module, example: tuple[Any, ...], leaves: Any, learning: bool, compiling: bool) -> Traced:
    """`trace` in one way.

    Args:
        module, example, leaves: as of `trace`.
        learning: modules that are not leaves run in training mode, except batch norms.
        compiling: what `torch.compiler.is_compiling` returns meanwhile.
    """
    with untouched(module):
        nodes = recorded(module, example, leaves, learning=learning, compiling=compiling)
    followed = False
    if nodes.burnt:
        with suppress(ConversionError):
            inputs = other_inputs(example, more=1)
            with untouched(module):
                followed = follow(nodes, recorded(module, inputs, leaves, learning=learning, compiling=compiling))
    for node in reversed(nodes.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            nodes.graph.erase_node(node)
    graph_module = assembled(module, nodes)
    with evaluating(graph_module):
        check(module, graph_module, example, [*nodes.burnt, *nodes.constants], more=3 if followed else 1)
    return Traced(graph_module, {node: nodes.values[node] for node in nodes.graph.nodes}, learning)


def recorded(
    module: nn.Module,
    inputs: tuple[Any, ...],
    leaves: Any,
    *,
    learning: bool,
    compiling: bool,
    outcomes: tuple[bool, ...] = (),
) -> Nodes:
    """A recording of one call. The modes of all parts are changed.

    Args:
        module: the module.
        inputs: the arguments of the call.
        leaves: as of `trace`.
        learning: modules that are not leaves run in training mode, except batch norms.
        compiling: what `torch.compiler.is_compiling` returns meanwhile.
        outcomes: what the first comparisons of sizes of inputs answer, whatever the sizes are.
    """
    recorder = Recorder(module, leaves, learning)
    recorder.nodes.outcomes = outcomes
    for name, part in module.named_modules():
        leaf = bool(name) and leaves(part, name)
        part.training = learning and not leaf and not isinstance(part, nn.modules.batchnorm._BatchNorm)
    with _compiling(compiling):
        _record(recorder, module, inputs)
    return recorder.nodes


def _record(recorder: Recorder, module: nn.Module, example: tuple[Any, ...]) -> None:
    """Record one call of the module, from its inputs to its output."""
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
    """Let `torch.compiler.is_compiling` return `answer` inside the `with` block."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = answer
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def _names(module: nn.Module, example: tuple[Any, ...]) -> list[str]:
    """The names of the arguments of the module's `forward`, one for every element of the example.

    Raises:
        ConversionError: `forward` does not take these arguments.
    """
    try:
        bound = inspect.signature(module.forward).bind(*example)
    except TypeError as error:
        raise ConversionError(
            f"example_input: expected the arguments of {type(module).__name__}.forward: {error}"
        ) from None
    names: list[str] = []
    for name, value in bound.arguments.items():
        several = bound.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        names += [f"{name}_{index}" for index in range(len(value))] if several else [name]
    return names
