"""Nodes that one gated layer can compute together: a layer, its activation, its dropout and its pool, in a row."""

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
_WITHOUT_OPTIONS = ("relu", "silu", "tanh", "sigmoid")
_BY_MODULE = {ACTIVATIONS[name]: name for name in _WITHOUT_OPTIONS}


class Fusion:
    """A layer, an activation, a dropout and a pool in a row. Only the next node uses the value of each node.

    Attributes:
        layer: the node of the layer, or None.
        behind: the nodes of the activation, the dropout and the pool, as far as there are any.
        activation: the name of the activation, a key of `hat_kernels.ACTIVATIONS`.
        dropped: the node of the dropout, or None.
        dropout: the probability of the dropout, 0 if there is none.
        pool: the module that pools, or None.
        activated: the node of the activation, if it is the last of the row; else None.
    """

    def __init__(self) -> None:
        self.layer: fx.Node | None = None
        self.behind: list[fx.Node] = []
        self.activation, self.dropout = "identity", 0.0
        self.pool: nn.Module | None = None
        self.dropped: fx.Node | None = None
        self.activated: fx.Node | None = None

    @classmethod
    def ending_at(cls, network: fx.GraphModule, node: fx.Node, gated: Container[fx.Node]) -> Fusion:
        """The longest row that ends at `node` and has no gated value before its end."""
        fusion = cls()
        current: fx.Node | None = node
        fusion.pool = pool_of(network, node)
        if fusion.pool is not None:
            current = fusion._before(node)
        dropout = None if current is None else _dropout(network, current)
        if current is not None and dropout is not None:
            fusion.dropped, fusion.dropout = current, dropout
            current = fusion._before(current)
        activation = None if current is None else activation_of(network, current)
        if current is not None and activation is not None:
            fusion.activation = activation
            fusion.activated = current if current is node else None
            current = fusion._before(current)
        is_layer = current is not None and current.op == "call_module"
        if is_layer and all(part is node or part not in gated for part in (current, *fusion.behind)):
            fusion.layer = current
        return fusion

    def _before(self, node: fx.Node) -> fx.Node | None:
        """Add a node to the row; return its first input if no other node uses that input."""
        self.behind.insert(0, node)
        source = node.args[0] if node.args else None
        return source if isinstance(source, fx.Node) and len(source.users) == 1 else None


def _dropout(network: fx.GraphModule, node: fx.Node) -> float | None:
    if node.op != "call_module":
        return None
    module: Any = network.get_submodule(str(node.target))
    return float(module.p) if known_type(module) is nn.Dropout and 0 <= module.p < 1 else None


def activation_of(network: fx.GraphModule, node: fx.Node) -> str | None:
    """The key of `hat_kernels.ACTIVATIONS` that a node computes, or None."""
    if node.op == "call_module":
        module: Any = network.get_submodule(str(node.target))
        if known_type(module) is nn.GELU:
            return "gelu" if module.approximate == "none" else "gelu_tanh"
        if known_type(module) is nn.LeakyReLU:
            return "leaky_relu" if module.negative_slope == 0.01 else None
        return _BY_MODULE.get(known_type(module))
    name = operation(node)
    if name == "gelu":
        approximate = node.kwargs.get("approximate", node.args[1] if len(node.args) > 1 else "none")
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(str(approximate))
    if name == "leaky_relu":
        slope = node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else 0.01)
        return "leaky_relu" if slope == 0.01 else None
    return name if name in _WITHOUT_OPTIONS else None


def pool_of(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The pool of `torch.nn` that a node computes, or None.

    The node calls a module, or a function whose settings are constants.
    """
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        return module if type(module) in _POOLS.values() else None
    name = operation(node) or ""
    if name not in _POOLS or len(node.all_input_nodes) != 1 or not node.args:
        return None
    settings = dict(zip(_SETTINGS[name[: name.index("_pool")]], node.args[1:], strict=False)) | dict(node.kwargs)
    return _POOLS[name](**settings)


_POOLS: dict[str, Any] = {
    f"{kind.lower()}_pool{dims}d": getattr(nn, f"{kind.replace('_', '')}Pool{dims}d")
    for kind in ("Max", "Avg", "Adaptive_Max", "Adaptive_Avg")
    for dims in (1, 2, 3)
}
"""The class of every pool, by the name of its function. A pool keeps channels apart, and keeps zeros."""
_SETTINGS = {
    "max": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_max": ("output_size", "return_indices"),
    "adaptive_avg": ("output_size",),
}
"""The names of the arguments behind the first, for every kind of pool function."""
