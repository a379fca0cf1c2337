"""What a gated layer can do in one go: a layer, an activation, a dropout and a pool, one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from torch import fx, nn

from hat.tracing.known import known_type
from hat.tracing.names import operation

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
"""The module of `torch.nn` that computes each of `hat_kernels.ACTIVATIONS`."""


class Fusion:
    """A layer, an activation, a dropout and a pool, one behind the other, each used by the next alone.

    Attributes:
        layer: None where there is none.
        behind: the nodes of activation, dropout and pool.
        activation: its name.
        dropout: its probability.
        pool: the module that pools, or None.
        activated: the node of the activation, where it is the last one.
    """

    def __init__(self) -> None:
        self.layer: fx.Node | None = None
        self.behind: list[fx.Node] = []
        self.activation, self.dropout = "identity", 0.0
        self.pool: nn.Module | None = None
        self.activated: fx.Node | None = None

    @classmethod
    def ending_at(cls, network: fx.GraphModule, node: fx.Node, gated: Container[fx.Node]) -> Fusion:
        """The longest one whose last node this is, with no gate in between."""
        fusion = cls()
        here: fx.Node | None = node
        fusion.pool = pool_of(network, node)
        if fusion.pool is not None:
            here = fusion._before(node)
        dropout = None if here is None else _dropout(network, here)
        if here is not None and dropout is not None:
            fusion.dropout = dropout
            here = fusion._before(here)
        activation = None if here is None else activation_of(network, here)
        if here is not None and activation is not None:
            fusion.activation = activation
            fusion.activated = here if here is node else None
            here = fusion._before(here)
        is_layer = here is not None and here.op == "call_module"
        if is_layer and all(each is node or each not in gated for each in (here, *fusion.behind)):
            fusion.layer = here
        return fusion

    def _before(self, node: fx.Node) -> fx.Node | None:
        """Take a node in; its first input, if nothing else uses that."""
        self.behind.insert(0, node)
        source = node.args[0] if node.args else None
        return source if isinstance(source, fx.Node) and len(source.users) == 1 else None


def _dropout(network: fx.GraphModule, node: fx.Node) -> float | None:
    if node.op != "call_module":
        return None
    module: Any = network.get_submodule(str(node.target))
    return float(module.p) if known_type(module) is nn.Dropout and 0 <= module.p < 1 else None


def activation_of(network: fx.GraphModule, node: fx.Node) -> str | None:
    """The key of `hat_kernels.ACTIVATIONS` that a node computes."""
    if node.op == "call_module":
        module: Any = network.get_submodule(str(node.target))
        if known_type(module) is nn.GELU:
            return "gelu" if module.approximate == "none" else "gelu_tanh"
        if known_type(module) is nn.LeakyReLU:
            return "leaky_relu" if module.negative_slope == 0.01 else None
        return _PLAIN.get(known_type(module))
    name = operation(node)
    if name == "gelu":
        approximate = node.kwargs.get("approximate", node.args[1] if len(node.args) > 1 else "none")
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(str(approximate))
    if name == "leaky_relu":
        slope = node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else 0.01)
        return "leaky_relu" if slope == 0.01 else None
    return name if name in ("relu", "silu", "tanh", "sigmoid") else None


def pool_of(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The pool of `torch.nn` that a node computes, called as a module or as a function with settings that are fixed."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        return module if type(module) in _POOLS.values() else None
    name = operation(node) or ""
    if name not in _POOLS or len(node.all_input_nodes) != 1 or not node.args:
        return None
    settings = dict(zip(_SETTINGS[name[: name.index("_pool")]], node.args[1:], strict=False)) | dict(node.kwargs)
    return _POOLS[name](**settings)


_PLAIN: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}

_POOLS: dict[str, Any] = {
    f"{kind.lower()}_pool{dims}d": getattr(nn, f"{kind.replace('_', '')}Pool{dims}d")
    for kind in ("Max", "Avg", "Adaptive_Max", "Adaptive_Avg")
    for dims in (1, 2, 3)
}
"""Each keeps channels apart and zeros zero, by the name of its function."""
_SETTINGS = {
    "max": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_max": ("output_size", "return_indices"),
    "adaptive_avg": ("output_size",),
}
"""What the arguments of the functions are called, behind the first."""
