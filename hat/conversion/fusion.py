"""What a gated layer can do in one go: a layer, an activation and a dropout, one behind the other."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from torch import fx, nn

from hat.tracing.known import known_type
from hat.tracing.names import operation


class Fusion:
    """A layer, an activation and a dropout, one behind the other, each used by the next alone.

    Attributes:
        layer: None where there is none.
        behind: the nodes of activation and dropout.
        activation: its name.
        dropout: its probability.
        activated: the node of the activation, where it is the last one.
    """

    def __init__(self) -> None:
        self.layer: fx.Node | None = None
        self.behind: list[fx.Node] = []
        self.activation, self.dropout = "identity", 0.0
        self.activated: fx.Node | None = None

    @classmethod
    def ending_at(cls, network: fx.GraphModule, node: fx.Node, gated: Container[fx.Node]) -> Fusion:
        """The longest one whose last node this is."""
        fusion = cls()
        here: fx.Node | None = node
        dropout = _dropout(network, node)
        if dropout is not None:
            fusion.dropout = dropout
            fusion.behind.insert(0, node)
            here = _only_input(node)
        activation = None if here is None else activation_of(network, here)
        if here is not None and activation is not None:
            fusion.activation = activation
            fusion.activated = here if here is node else None
            fusion.behind.insert(0, here)
            here = _only_input(here)
        is_layer = here is not None and here.op == "call_module"
        if is_layer and (here is node or here not in gated):
            fusion.layer = here
        return fusion


def _only_input(node: fx.Node) -> fx.Node | None:
    """The first input, if nothing else uses it."""
    found = node.args[0] if node.args else None
    return found if isinstance(found, fx.Node) and len(found.users) == 1 else None


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


_PLAIN: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}
