"""Wiring a plain sequence of layers: who consumes whose units."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from torch import nn

from hat.layers.convolutions import HATConv1d, HATConv2d, HATConv3d
from hat.layers.dropout import Dropout
from hat.layers.gated import GatedLayer, HATLinear
from hat.layers.gated_norm import GatedNorm
from hat.layers.norms import NORMS, HATBatchNorm1d
from hat.layers.stochastic_depth import StochasticDepth
from hat.units.gate import Gate
from hat.units.wired import Reach, Wired

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
    StochasticDepth,
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


_TYPES = {*_ELEMENTWISE, *_CHANNELWISE, Dropout, nn.Flatten, HATLinear, HATConv1d, HATConv2d, HATConv3d, Gate}
_TYPES |= {*NORMS.values()}


class Chain(nn.Sequential, Wired):
    """What `hat.chain` returns: a `torch.nn.Sequential` that knows which of its gates it has wired completely.

    Attributes:
        wired: the modules in the order in which they were wired.
        loose: the gates whose units meet something in the chain that does not know them.
        tail: what arrives at the end.
    """

    wired: tuple[nn.Module, ...] = ()
    loose: frozenset[Gate] = frozenset()

    def _get_name(self) -> str:
        return "Sequential"  # what it computes, and how it was called in the checkpoints of earlier versions

    def complete(self) -> dict[Gate, bool]:
        """Whether every gate of the chain meets nothing outside of it, but for what comes behind its end.

        It is taken to do so once modules were added, removed or replaced, where one is of a type that somebody derived
        or has a forward hook: units may have parameters and meanings there that nobody knows. A slice of a chain knows
        nothing.
        """
        intact = self.wired == tuple(self) and all(_is_known(module) for module in (self, *self.wired))
        layers = {layer for layer in self.wired if isinstance(layer, GatedLayer)}
        known = layers | {norm for norm in self.wired if isinstance(norm, GatedNorm)}
        return {gate: intact and gate not in self.loose and _producers(gate) <= known for gate in _gates(layers)}


def _is_known(module: nn.Module) -> bool:
    """What it does to units is known, or it ends their reach anyway."""
    inside = [module, *(child for child in module.children() if isinstance(module, (GatedLayer, GatedNorm)))]
    hooked = any(each._forward_hooks or each._forward_pre_hooks for each in inside)
    keeps_units = isinstance(module, (*_ELEMENTWISE, *_CHANNELWISE, nn.Flatten, GatedLayer, GatedNorm, Gate))
    return not hooked and (not keeps_units or all(type(each) in _TYPES for each in inside))


def _gates(layers: Iterable[GatedLayer]) -> set[Gate]:
    return {layer.gate for layer in layers}


def _producers(gate: Gate) -> set[nn.Module]:
    return {member.module for member in gate.members if member.produces}


def chain(*modules: nn.Module, **named: nn.Module) -> Chain:
    """A sequence of modules in which every gated layer knows the gate of the units that reach it.

    A gate reaches the next gated layer through modules that keep units apart and zeros zero: dropout, pooling, flatten,
    ReLU and the like, and through a norm of this package over the units that arrive: one without a gate gets theirs.
    Any other module in between (a softmax, say) ends its reach: the layer behind it counts as a first layer, which
    locks more and forgets nothing. A norm with another gate starts the reach of that one, as a `Gate` does.

    Args:
        modules: in order of application; `HATLinear`, `HATConv*`, `HATBatchNorm*` and the like, `Gate` and any others.
        named: the same, with names of their own instead of numbers; after the unnamed ones.

    Raises:
        ValueError: a layer's inputs are not a multiple of the units that reach it.
    """
    children = OrderedDict([*((str(index), module) for index, module in enumerate(modules)), *named.items()])
    reach: Reach | None = None
    last: GatedLayer | None = None  # whose units are on their way
    fed: dict[GatedLayer, list[Reach | None]] = {}
    loose: set[Gate] = set()
    for module in children.values():
        if isinstance(module, GatedLayer):
            met = reach if reach is not None and _meets(reach, module) else None
            if met is None and last is not None:
                loose.add(last.gate)
            fed.setdefault(module, []).append(met)
            reach, last = Reach(module.gate, "last" if isinstance(module, HATLinear) else "channels"), module
        elif isinstance(module, GatedNorm) and _takes(module, reach):
            continue
        elif (gate := _gate_of(module)) is not None:
            loose |= {gate} if last is None else {gate, last.gate}  # their units meet, or what nobody knows of
            reach, last = _from(gate, module), None
        elif reach is not None:
            reach = _behind(reach, module)
    if last is not None and reach is None:
        loose.add(last.gate)
    for layer, reaches in fed.items():
        known = [each for each in reaches if each is not None]
        if len(known) == len(reaches):
            _connect(layer, known)
        else:  # once, at least, it is used on what nobody knows: a first layer
            layer.fed_unknown = True
            loose |= {each.gate for each in known}
    found = Chain(children)
    found.wired, found.loose, found.tail = tuple(children.values()), frozenset(loose), reach
    return found


def _connect(layer: GatedLayer, reaches: Iterable[Reach]) -> None:
    inputs = layer.weight.shape[1] * getattr(layer, "groups", 1)
    for reach in dict.fromkeys(reaches):
        layer.connect(reach.gate, repeat=max(1, inputs // reach.gate.units) if reach.layout == "flat" else 1)


def _takes(norm: GatedNorm, reach: Reach | None) -> bool:
    """The units that arrive are those of the norm, which has their gate from now on."""
    if reach is None or norm.units != reach.gate.units or norm.gate not in (None, reach.gate):
        return False
    if norm.unit_dim == 1 and reach.layout != "channels":
        if not isinstance(norm, HATBatchNorm1d):
            return False
        norm.dims = (2,)  # of three, the second would be positions
    elif norm.unit_dim == -1 and reach.layout == "channels":
        return False
    if norm.gate is None:
        norm.connect(reach.gate)
    return True


def _gate_of(module: nn.Module) -> Gate | None:
    """The gate of a module that gates what arrives, whatever it is."""
    gate = module.gate if isinstance(module, GatedNorm) else module
    return gate if isinstance(gate, Gate) else None


def _from(gate: Gate, module: nn.Module) -> Reach | None:
    """What a module that has the gate of no layer sends on."""
    unit_dim = module.unit_dim if isinstance(module, GatedNorm) else gate.unit_dim
    return Reach(gate, {-1: "last", 1: "channels"}[unit_dim]) if unit_dim in (-1, 1) else None


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
