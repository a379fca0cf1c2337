"""Functions with parameters of their own, as `F.linear(x, self.weight)`, become the layers that they are."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.tracing.known import known_type
from hat.tracing.names import operation


def make_modular(network: fx.GraphModule, concrete: Mapping[fx.Node, Any]) -> None:
    """Put a layer around the parameters of every function that is one; the parameters stay the same objects.

    Args:
        network: changed in place.
        concrete: the value of every node on the example.
    """
    for node in list(network.graph.nodes):
        make = _LAYERS.get(operation(node) or "")
        arguments = None if make is None else _arguments(network, node)
        if arguments is None or make is None or (layer := make(node, arguments, concrete)) is None:
            continue
        name = _free_name(network, str(arguments["weight"][0]))
        network.add_submodule(name, layer.train(network.training))
        with network.graph.inserting_before(node):
            new = network.graph.call_module(name, (arguments["input"],))
            new.meta = dict(node.meta)
            if "computed_bias" in arguments:
                new = _add_bias(network.graph, new, arguments["computed_bias"], concrete[node].dim())
        node.replace_all_uses_with(new)
        network.graph.erase_node(node)
    network.graph.eliminate_dead_code()
    _leave_out(network)


def _leave_out(network: fx.GraphModule) -> None:
    """What passes on what it gets would stand between a layer and its gate; a dropout that never drops is such."""
    for node in list(network.graph.nodes):
        if node.op != "call_module" or len(node.args) != 1:
            continue
        module = network.get_submodule(str(node.target))
        if known_type(module) is nn.Identity or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p == 0):
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)


def _arguments(network: fx.GraphModule, node: fx.Node) -> dict[str, Any] | None:
    """By name; a parameter as its name and itself. None where a weight is computed.

    A bias that is computed, from several parameters say, is an argument of its own, to be added behind the layer.
    """
    names = _NAMES[operation(node) or ""]
    found = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if operation(node) == "embedding" and _is_parameter(network, found.get("input")):  # of the compiled operator
        found["input"], found["weight"] = found["weight"], found["input"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = found.get(name)
        if value is None:
            continue
        tensor = _tensor(network, value)
        if name == "bias" and not isinstance(tensor, nn.Parameter) and operation(node) in _ADDS_BIAS:
            found["computed_bias"], found["bias"] = value, None
            continue
        if tensor is None or (name in ("weight", "bias") and not isinstance(tensor, nn.Parameter)):
            return None
        found[name] = (str(getattr(value, "target", "")), tensor)
    return found if found.get("weight") is not None else None


def _add_bias(graph: fx.Graph, node: fx.Node, bias: fx.Node, dims: int) -> fx.Node:
    """The layer's result plus a bias, which lies along its last dimension, or the second of a convolution's."""
    if _is_convolution(node):
        bias = graph.call_method("view", (bias, -1, *[1] * (dims - 2)))
    return graph.call_function(operator.add, (node, bias))


def _is_convolution(node: fx.Node) -> bool:
    owner = node.graph.owning_module
    return owner is not None and not isinstance(owner.get_submodule(str(node.target)), nn.Linear)


def _tensor(network: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found: Any = network
    for part in str(node.target).split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, Tensor) else None


def _is_parameter(network: fx.GraphModule, node: Any) -> bool:
    return isinstance(_tensor(network, node), nn.Parameter)


def _free_name(network: fx.GraphModule, parameter: str) -> str:
    """The name of the module that has the parameter, if it has nothing else; else that of the parameter, shortened.

    Never one inside of a layer that the graph calls: that layer is the user's, and stays as it is.
    """
    owner, _, name = parameter.rpartition(".")
    own, called = network.get_submodule(owner), _called(network)
    others = {*own._parameters, *own._buffers, *own._modules} - _TENSORS
    alone = not others and type(own) is nn.Module and owner
    kind = name.removesuffix("_weight").removesuffix("weight")
    if alone and not kind and owner not in called:
        return owner
    inside = any(owner == layer or owner.startswith(f"{layer}.") for layer in called)
    free = f"{owner.replace('.', '_') if inside else owner}{'_' if inside else '.'}{kind or 'layer'}".lstrip(".")
    while free in called or _exists(network, free):
        free += "_"
    return free


def _called(network: fx.GraphModule) -> set[str]:
    return {str(node.target) for node in network.graph.nodes if node.op == "call_module"}


def _exists(network: fx.GraphModule, name: str) -> bool:
    owner, _, last = name.rpartition(".")
    return hasattr(network.get_submodule(owner), last)


def _around(cls: type[nn.Module], arguments: dict[str, Any], *args: Any, **kwargs: Any) -> nn.Module:
    """A module that has these parameters and buffers, and allocates none."""
    module = cls(*args, device="meta", **kwargs)
    for name in ("weight", "bias"):
        given = arguments.get(name)
        module.register_parameter(name, None if given is None else given[1])
    for name in ("running_mean", "running_var"):
        if name in module._buffers and arguments.get(name) is not None:
            module._buffers[name] = arguments[name][1]
    if "num_batches_tracked" in module._buffers:
        module._buffers["num_batches_tracked"] = torch.zeros((), dtype=torch.long)
    return module


def _linear(node: fx.Node, arguments: dict[str, Any], concrete: Any) -> nn.Module | None:
    rows, columns = arguments["weight"][1].shape
    return _around(nn.Linear, arguments, columns, rows, arguments.get("bias") is not None)


def _conv(dims: int, transposed: bool) -> Callable[..., nn.Module | None]:
    cls = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")

    def make(node: fx.Node, arguments: dict[str, Any], concrete: Any) -> nn.Module | None:
        weight, groups = arguments["weight"][1], arguments.get("groups", 1)
        options: dict[str, Any] = {
            name: _plain(arguments[name]) for name in ("stride", "padding", "dilation") if name in arguments
        }
        if transposed:
            options["output_padding"] = arguments.get("output_padding", 0)
        inputs, outputs = weight.shape[1] * groups, weight.shape[0]
        if transposed:
            inputs, outputs = weight.shape[0], weight.shape[1] * groups
        if any(value is None for value in options.values()):
            return None
        bias = arguments.get("bias") is not None
        return _around(cls, arguments, inputs, outputs, tuple(weight.shape[2:]), groups=groups, bias=bias, **options)

    return make


def _plain(value: Any) -> Any:
    """A setting of a layer; None where the graph computes it."""
    if isinstance(value, tuple | list):
        return None if any(isinstance(each, fx.Node) for each in value) else tuple(value)
    return None if isinstance(value, fx.Node) else value


def _layer_norm(node: fx.Node, arguments: dict[str, Any], concrete: Any) -> nn.Module | None:
    shape = tuple(arguments["weight"][1].shape)
    bias = arguments.get("bias") is not None
    return _around(nn.LayerNorm, arguments, shape, eps=arguments.get("eps", 1e-5), bias=bias)


def _rms_norm(node: fx.Node, arguments: dict[str, Any], concrete: Any) -> nn.Module | None:
    return _around(nn.RMSNorm, arguments, tuple(arguments["weight"][1].shape), eps=arguments.get("eps"))


def _group_norm(node: fx.Node, arguments: dict[str, Any], concrete: Any) -> nn.Module | None:
    channels = len(arguments["weight"][1])
    return _around(nn.GroupNorm, arguments, arguments["num_groups"], channels, eps=arguments.get("eps", 1e-5))


def _batch_norm(node: fx.Node, arguments: dict[str, Any], concrete: Any) -> nn.Module | None:
    dims = concrete[node].dim()
    cls = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[dims]
    tracked = arguments.get("running_mean") is not None
    if not tracked:
        return None  # a standardised weight, mostly: no norm of activations
    momentum, eps = arguments.get("momentum", 0.1), arguments.get("eps", 1e-5)
    return _around(cls, arguments, concrete[node].shape[1], eps=eps, momentum=momentum)


def _embedding(node: fx.Node, arguments: dict[str, Any], concrete: Any) -> nn.Module | None:
    if arguments.get("max_norm") is not None:
        return None
    rows, columns = arguments["weight"][1].shape
    module = nn.Embedding(rows, columns, arguments.get("padding_idx"), _weight=arguments["weight"][1].data)
    module.register_parameter("weight", arguments["weight"][1])
    return module


_TENSORS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
_ADDS_BIAS = ("linear", "conv1d", "conv2d", "conv3d")
_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_NAMES: dict[str, tuple[str, ...]] = {
    "linear": ("input", "weight", "bias"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "embedding": ("input", "weight", "padding_idx", "max_norm"),
    **{f"conv{dims}d": _CONV for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": _TRANSPOSED for dims in (1, 2, 3)},
}
_LAYERS: dict[str, Callable[..., nn.Module | None]] = {
    "linear": _linear,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "embedding": _embedding,
    **{f"conv{dims}d": _conv(dims, False) for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": _conv(dims, True) for dims in (1, 2, 3)},
}
