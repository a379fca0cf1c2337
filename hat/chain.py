"""Wiring a plain sequence of layers: who consumes whose units."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import nn

from hat.gate import Gate
from hat.layers import GatedLayer, HATLinear

# Work on every element by itself and turn zero into zero, so that an off-unit stays off.
_ELEMENTWISE = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.ReLU,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
)
# Work on every channel of (B, C, *spatial) by itself; along the units of a linear layer they would mix them.
_CHANNELWISE = (
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


class Reach(NamedTuple):
    """The gate whose units arrive somewhere in a chain, and where they lie.

    Attributes:
        gate: the gate.
        layout: `"channels"`, dimension 1 of (B, N, *spatial); `"last"`, the last dimension; `"flat"`, channels after a
            flatten, each repeated, channel-major.
    """

    gate: Gate
    layout: str


class Chain(nn.Sequential):
    """What `hat.chain` returns: a `torch.nn.Sequential` that knows which of its gates it has wired completely.

    Attributes:
        wired: the modules in the order in which they were wired.
        arrives: of every gated layer, whether all its units arrive at layers that know them, or at the end.
        tail: what arrives at the end.
    """

    wired: tuple[nn.Module, ...] = ()
    arrives: Mapping[GatedLayer, bool] = MappingProxyType({})  # a class attribute that nobody can fill
    tail: Reach | None = None

    def _get_name(self) -> str:
        return "Sequential"  # what it computes, and how it was called in the checkpoints of earlier versions

    def complete(self) -> dict[Gate, bool]:
        """Whether every gate of the chain meets nothing outside of it, but for what comes behind its end.

        It is taken to do so once modules were added, removed or replaced. A slice of a chain knows nothing.
        """
        intact = self.wired == tuple(self)
        found: dict[Gate, bool] = {}
        for layer, arrives in self.arrives.items():
            alone = intact and arrives and _producers(layer.gate) <= set(self.arrives)
            found[layer.gate] = found.get(layer.gate, True) and alone
        return found


def _producers(gate: Gate) -> set[nn.Module]:
    return {member.module for member in gate.members if member.dim == 0}


def chain(*modules: nn.Module, **named: nn.Module) -> Chain:
    """A sequence of modules in which every gated layer knows the gate of the units that reach it.

    A gate reaches the next gated layer through modules that keep units apart and zeros zero: dropout, pooling, flatten,
    ReLU and the like. Any other module in between (a normalisation, say) ends its reach: the layer behind it counts as
    a first layer, which locks more and forgets nothing.

    Args:
        modules: in order of application; `HATLinear`, `HATConv*`, `Gate` and any others.
        named: the same, with names of their own instead of numbers; after the unnamed ones.

    Raises:
        ValueError: a layer's inputs are not a multiple of the units that reach it.
    """
    reach: Reach | None = None
    last: GatedLayer | None = None  # whose units arrive, if nobody else's are mixed in
    arrives: dict[GatedLayer, bool] = {}
    children = OrderedDict([*((str(index), module) for index, module in enumerate(modules)), *named.items()])
    for module in children.values():
        if isinstance(module, GatedLayer):
            met = reach is not None and _meets(reach, module)
            if reach is not None and met:
                inputs = module.weight.shape[1] * getattr(module, "groups", 1)
                module.connect(reach.gate, repeat=max(1, inputs // reach.gate.units) if reach.layout == "flat" else 1)
            if last is not None:
                arrives[last] = arrives.get(last, True) and met
            reach, last = Reach(module.gate, "last" if isinstance(module, HATLinear) else "channels"), module
        elif isinstance(module, Gate):
            if last is not None:
                arrives[last], last = False, None  # its units meet this gate's
            reach = Reach(module, {-1: "last", 1: "channels"}[module.unit_dim]) if module.unit_dim in (-1, 1) else None
        elif reach is not None:
            reach = _behind(reach, module)
    if last is not None:
        arrives[last] = arrives.get(last, True) and reach is not None
    found = Chain(children)
    found.wired, found.arrives, found.tail = tuple(children.values()), arrives, reach
    return found


def _meets(reach: Reach, layer: GatedLayer) -> bool:
    """The units that arrive are the inputs of the layer, not the positions that it slides along or maps."""
    if not isinstance(layer, HATLinear):
        return reach.layout == "channels"
    # As many inputs as units; more would be a flatten of tokens, where units come last.
    return reach.layout == "flat" or (reach.layout == "last" and layer.in_features == reach.gate.units)


def _behind(reach: Reach, module: nn.Module) -> Reach | None:
    if isinstance(module, _ELEMENTWISE):
        return reach
    if isinstance(module, _CHANNELWISE):
        return reach if reach.layout == "channels" else None
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        return reach._replace(layout="flat") if reach.layout == "channels" else reach
    return None
