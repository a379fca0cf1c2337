"""Turning any `nn.Module` into a graph of what it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from hat.conversion.checks import check
from hat.conversion.errors import ConversionError
from hat.conversion.leaves import is_leaf
from hat.conversion.recorder import Recorder
from hat.conversion.untouched import untouched


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
    _refuse_hooks(module)
    with untouched(module):
        with suppress(ConversionError):  # in training mode it does what a graph cannot
            return _trace(module, example, leaves, learning=True)
        return _trace(module, example, leaves, learning=False)


def _trace(module: nn.Module, example: tuple[Any, ...], leaves: Any, learning: bool) -> Traced:
    recorder = Recorder(module, leaves, learning)
    with untouched(module):
        for name, each in module.named_modules():
            stays = bool(name) and leaves(each, name)
            each.training = learning and not stays and not isinstance(each, nn.modules.batchnorm._BatchNorm)
        _record(recorder, module, example)
    for node in reversed(recorder.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            recorder.graph.erase_node(node)
    graph_module = _assemble(recorder, module)
    graph_module.eval()
    check(module, graph_module, example, recorder.burnt)
    graph_module.train(module.training)
    return Traced(graph_module, {node: recorder.values[node] for node in recorder.graph.nodes})


def _record(recorder: Recorder, module: nn.Module, example: tuple[Any, ...]) -> None:
    inputs = [recorder.placeholder(name, value) for name, value in zip(_names(module, example), example, strict=True)]
    try:
        with recorder.recording():
            recorder.output(module._call_impl(*inputs))
    except ConversionError:
        raise
    except Exception as error:
        raise ConversionError(f"{recorder.place_of(error)}: {type(error).__name__}: {error}") from error


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


def _refuse_hooks(module: nn.Module) -> None:
    """What a hook does is in no graph; an embedding that renormalises changes as it is read."""
    for name, each in module.named_modules():
        place = f"{name or 'the network'} ({type(each).__name__})"
        if any(nn.parameter.is_lazy(parameter) for parameter in each.parameters(recurse=False)):
            raise ConversionError(f"{place}: has no parameters yet; run the network once")
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            if getattr(each, hooks):
                raise ConversionError(
                    f"{place}: has a hook ({hooks[1:-1]}), which a graph does not show; "
                    "remove it, or write a parametrization (torch.nn.utils.parametrizations) or a module"
                )
        if getattr(each, "max_norm", None) is not None and isinstance(each, nn.Embedding | nn.EmbeddingBag):
            raise ConversionError(f"{place}: changes its weight as it reads it (max_norm); set max_norm to None")


def _assemble(recorder: Recorder, module: nn.Module) -> fx.GraphModule:
    """The graph as a module, with what it refers to under the names that it has in the network."""
    shell = nn.Module()
    used = {node.target for node in recorder.graph.nodes if node.op in ("call_module", "get_attr")}
    for target in sorted(used, key=lambda name: name.count(".")):
        _install(shell, target.split("."), recorder.targets[target])
    found = fx.GraphModule(shell, recorder.graph, type(module).__name__)
    for name in used:  # fx makes every buffer one that is saved
        path, _, field = name.rpartition(".")
        if path in recorder.owners and field in recorder.owners[path]._non_persistent_buffers_set:
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
