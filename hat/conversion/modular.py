"""Functions with parameters become layers: `F.linear(x, self.weight)` becomes a call of a `torch.nn.Linear`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.maps import transposed, write_as_linear
from hat.layers.transposed import TransposedLinear
from hat.tracing.known import known_type
from hat.tracing.names import operation


def make_modular(network: fx.GraphModule, concrete: Mapping[fx.Node, Any]) -> None:
    """Replace every function that computes a layer by that layer. The parameters stay the same objects.

    Args:
        network: changed in place.
        concrete: the value of every node on the example.
    """
    write_as_linear(network.graph, concrete, lambda node: _parameter(network, node))
    for node in list(network.graph.nodes):
        make = _LAYERS.get(operation(node) or "")
        arguments = None if make is None else _arguments(network, node)
        if arguments is None or make is None or (layer := make(node, arguments, concrete)) is None:
            continue
        name = _free_name(network, str(arguments["weight"][0]))
        network.add_submodule(name, layer)
        with network.graph.inserting_before(node):
            new = network.graph.call_module(name, (arguments["input"],))
            new.meta = dict(node.meta)
            if "computed_bias" in arguments:
                new = _add_bias(network.graph, new, arguments["computed_bias"], concrete.get(node))
        node.replace_all_uses_with(new)
        network.graph.erase_node(node)
    network.graph.eliminate_dead_code()
    _remove_identities(network)


def _remove_identities(network: fx.GraphModule) -> None:
    """Remove modules that return their input, because they would stand between a layer and its gate.

    A dropout with probability 0 is one of them.
    """
    for node in list(network.graph.nodes):
        if node.op != "call_module" or len(node.args) != 1:
            continue
        module = network.get_submodule(str(node.target))
        if known_type(module) is nn.Identity or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p == 0):
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)


def _arguments(network: fx.GraphModule, node: fx.Node) -> dict[str, Any] | None:
    """The arguments of a function by name, a tensor as (name in the graph, tensor). None if the weight is computed.

    A bias that is computed, for example from several parameters, is the argument `computed_bias`. It is added behind
    the layer.
    """
    names = _NAMES[operation(node) or ""]
    arguments = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    # `aten.embedding` takes the weight first
    if operation(node) == "embedding" and _parameter(network, arguments.get("input")) is not None:
        arguments["input"], arguments["weight"] = arguments["weight"], arguments["input"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = arguments.get(name)
        if value is None:
            continue
        tensor = _tensor(network, value)
        if name == "weight" and operation(node) == "linear":
            source = transposed(value, lambda read: _parameter(network, read))
            if source is not None:
                value, tensor, arguments["transposed"] = source, _tensor(network, source), True
        is_bias = isinstance(tensor, nn.Parameter) and tensor.dim() == 1
        if name == "bias" and not is_bias and operation(node) in _ADDS_BIAS:
            arguments["computed_bias"], arguments["bias"] = value, None
            continue
        if tensor is None or (name in ("weight", "bias") and not isinstance(tensor, nn.Parameter)):
            return None
        arguments[name] = (str(getattr(value, "target", "")), tensor)
    return arguments if arguments.get("weight") is not None else None


def _add_bias(graph: fx.Graph, node: fx.Node, bias: fx.Node, result: Any) -> fx.Node:
    """The result of a layer plus a bias along the last dimension; along dimension 1 behind a convolution."""
    if _is_convolution(node):
        bias = graph.call_method("view", (bias, -1, *[1] * (result.dim() - 2)))
    return graph.call_function(operator.add, (node, bias))


def _is_convolution(node: fx.Node) -> bool:
    owner = node.graph.owning_module
    return owner is not None and isinstance(owner.get_submodule(str(node.target)), nn.modules.conv._ConvNd)


def _tensor(network: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    attribute: Any = network
    for part in str(node.target).split("."):
        attribute = getattr(attribute, part, None)
    return attribute if isinstance(attribute, Tensor) else None


def _parameter(network: fx.GraphModule, node: Any) -> nn.Parameter | None:
    tensor = _tensor(network, node)
    return tensor if isinstance(tensor, nn.Parameter) and tensor.is_floating_point() else None


def _free_name(network: fx.GraphModule, parameter: str) -> str:
    """A free name for the layer of a parameter.

    The name is that of the module that owns the parameter, if that module has nothing else. Otherwise the name is made
    of the parameter's name. It is never the name of something inside a layer that the graph calls, because that layer
    belongs to the user and stays unchanged.
    """
    owner, _, name = parameter.rpartition(".")
    owning_module, called = network.get_submodule(owner), _called(network)
    others = {*owning_module._parameters, *owning_module._buffers, *owning_module._modules} - _TENSORS
    has_nothing_else = not others and type(owning_module) is nn.Module and owner
    kind = name.removesuffix("_weight").removesuffix("weight")
    if has_nothing_else and not kind and owner not in called:
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
    """A module of class `cls` with the given parameters and buffers; no memory is allocated for others."""
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
    if "transposed" in arguments:
        bias = arguments.get("bias")
        return TransposedLinear(arguments["weight"][1], None if bias is None else bias[1])
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
    """A setting of a layer; None if the graph computes the setting."""
    if isinstance(value, tuple | list):
        return None if any(isinstance(item, fx.Node) for item in value) else tuple(value)
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
        return None  # usually a standardised weight, not a norm of activations
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
