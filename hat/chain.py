"""Wiring a plain sequence of layers: who consumes whose units."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from hat.gate import Gate
from hat.layers import GatedLayer

# Modules that keep units apart and turn a unit of zeros into a unit of zeros, so that an off-unit stays off.
_TRANSPARENT = (
    nn.Identity,
    nn.Flatten,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.ReLU,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)


def chain(*modules: nn.Module, **named: nn.Module) -> nn.Sequential:
    """A `torch.nn.Sequential` in which every gated layer knows the gate of the units that reach it.

    A gate reaches the next gated layer through modules that keep units apart and zeros zero: dropout, pooling, flatten,
    ReLU and the like. Any other module in between (a normalisation, say) ends its reach: the layer behind it counts as
    a first layer, which locks more and forgets nothing.

    Args:
        modules: in order of application; `HATLinear`, `HATConv*`, `Gate` and any others.
        named: the same, with names of their own instead of numbers; after the unnamed ones.

    Raises:
        ValueError: a layer's inputs are not a multiple of the units that reach it.
    """
    gate: Gate | None = None
    children = OrderedDict([*((str(index), module) for index, module in enumerate(modules)), *named.items()])
    for module in children.values():
        if isinstance(module, GatedLayer):
            if gate is not None:
                module.connect(gate)
            gate = module.gate
        elif isinstance(module, Gate):
            gate = module
        elif not isinstance(module, _TRANSPARENT):
            gate = None
    return nn.Sequential(children)
