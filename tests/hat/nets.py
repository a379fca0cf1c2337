"""Random small networks, for the tests of what must hold for every network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

import hat
import hat_kernels
from hat.conversion.api import convert_body
from hat.conversion.body import Converted
from hat.layers.gated import GatedLayer
from hat.layers.gated_norm import GatedNorm
from hat.layers.stochastic_depth import StochasticDepth
from hat.units.state import Answer
from hat.units.wired import Wired

ACTIVATIONS = ["relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "identity"]
CONVS = {1: hat.HATConv1d, 2: hat.HATConv2d, 3: hat.HATConv3d}
POOLS = {
    "max": {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d},
    "average": {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d},
}

KEEP_UNITS = (
    *(nn.Identity, nn.Flatten, nn.Dropout, nn.ReLU, nn.Tanh, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    *(pool for pools in POOLS.values() for pool in pools.values()),
)
"""These modules keep units apart, and keep zeros zero."""

activations = st.sampled_from(ACTIVATIONS)
dropouts = st.sampled_from([0.0, 0.3])


def use(gate: hat.Gate, units: list[int]) -> None:
    """As if a task had committed this mask, through the door that a checkpoint takes."""
    gate.load_state_dict({**gate.state_dict(), "masks": torch.tensor([units], dtype=torch.float32)})


def dense(weight, groups):
    """A grouped weight with a column for every input, 0 where a group does not meet it."""
    if weight.dim() < 2 or groups == 1:
        return weight
    rows, width = len(weight) // groups, weight.shape[1]
    whole = weight.new_zeros(len(weight), groups * width, *weight.shape[2:])
    for group in range(groups):
        own = slice(group * rows, (group + 1) * rows)
        whole[own, group * width : (group + 1) * width] = weight[own]
    return whole


class Sequence(nn.Sequential, Wired):
    """What `wired` returns."""

    def __init__(self, *modules: nn.Module, loose: set[hat.Gate], tail: hat.Gate | None) -> None:
        super().__init__(*modules)
        self.loose = loose
        self.__dict__["tail"] = tail

    def complete(self) -> dict[hat.Gate, bool]:
        return {module.gate: module.gate not in self.loose for module in self if isinstance(module, GatedLayer)}


def wired(*modules: nn.Module) -> Sequence:
    """Layers one behind the other, each told the gate of the units that come in, as a user wires them by hand.

    A flatten puts the positions of a channel in a row. Behind what mixes units or moves zeros comes a first layer.
    """
    gate, loose = None, set()
    for module in modules:
        if isinstance(module, GatedLayer):
            if gate is not None:
                inputs = module.weight.shape[1] * getattr(module, "groups", 1)
                module.connect(gate, repeat=max(1, inputs // gate.units))
            gate = module.gate
        elif isinstance(module, GatedNorm):
            if module.gate is None:
                module.connect(gate)
        elif not isinstance(module, KEEP_UNITS) and gate is not None:
            loose.add(gate)
            gate = None
    return Sequence(*modules, loose=loose, tail=gate)


class Residual(nn.Module):
    """A stream with one gate, read and written by every block: x + block(x)."""

    def __init__(self, inputs: int, width: int, hidden: list[int], *, activation: str, bias: bool) -> None:
        super().__init__()
        self.stem = hat.HATLinear(inputs, width, activation=activation, bias=bias)
        stream = self.stem.gate
        self.up = nn.ModuleList(
            hat.HATLinear(width, h, inputs=stream, activation=activation, bias=bias, dropout=0.2) for h in hidden
        )
        self.down = nn.ModuleList(
            hat.HATLinear(h, width, inputs=up.gate, gate=stream, activation="identity", bias=bias)
            for h, up in zip(hidden, self.up, strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(up(x))
        return x


class Branches(nn.Module):
    """Two convolutions on one gate, one of them depthwise on it, added before a gate that is a module of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = hat.HATConv2d(1, channels, 3, padding=1)
        self.two = hat.HATConv2d(
            channels, channels, 3, padding=1, groups=channels, gate=self.one.gate, inputs=self.one.gate
        )
        self.head = hat.HATLinear(channels, 5, inputs=self.one.gate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.one(x)
        return self.head((h + self.two(h)).mean((2, 3)))


class Attention(nn.Module):
    """Heads over tokens, of four linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        h = F.scaled_dot_product_attention(*(head.transpose(1, 2) for head in heads))
        return self.out(h.transpose(1, 2).flatten(2))


class Switched(nn.Module):
    """Hidden units with a switch each (Shazeer, 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.switch, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x) * F.silu(self.switch(x)))


class Transformer(nn.Module):
    """Words or patches, a class token, positions, blocks on one stream, and the mean over tokens; plain PyTorch.

    A block is attention, and hidden units without and with a switch in turn.
    """

    def __init__(
        self,
        tokens: nn.Module,
        width: int,
        heads: int,
        positions: int,
        *,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        dropout: float = 0.0,
        count: int = 2,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, positions + 1, width))
        self.blocks = nn.ModuleList()
        for index in range(count):
            hidden = [nn.Linear(width, width + 1), nn.GELU(), nn.Dropout(dropout), nn.Linear(width + 1, width)]
            inside = Switched(width, width + 1) if index % 2 else nn.Sequential(*hidden)
            self.blocks += [nn.Sequential(norm(width), part) for part in (Attention(width, heads), inside)]
        self.drop = StochasticDepth(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tokens(x)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = x + self.drop(block(x))
        return x.mean(1)


class Patches(nn.Sequential):
    """An image as a sequence of patches of two pixels a side."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Conv2d(1, width, 2, 2), nn.Flatten(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).transpose(1, 2)


class Squeezed(nn.Module):
    """Two convolutions; the channels of the first weigh each other (Hu et al., CVPR 2018); plain PyTorch."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, channels, 3), nn.Conv2d(channels, 5, 2)
        self.squeeze, self.excite = nn.Linear(channels, reduced), nn.Linear(reduced, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.one(x))
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return F.relu(self.two(x * scale[:, :, None, None])).mean((2, 3))


def text_transformer(words: int, width: int, heads: int, length: int, **options: Any) -> Converted:
    """Of texts [B, length], converted."""
    network = Transformer(nn.Embedding(words, width, padding_idx=0), width, heads, length, **options)
    return convert_body(network, torch.arange(3 * length).view(3, length) % words, head=None)


def outputs_of(body: nn.Module) -> hat.Gate | None:
    """The gate at the end of a network that is wired by hand."""
    ends = {Residual: "stem", Branches: "head"}
    return getattr(body, ends[type(body)]).gate if type(body) in ends else None


@st.composite
def mlps(draw):
    """(body, shape of one input, features)."""
    widths = [draw(st.integers(1, 9)) for _ in range(draw(st.integers(2, 4)))]
    layers = [nn.Dropout(0.1)]
    for inputs, units in itertools.pairwise(widths):
        layers.append(
            hat.HATLinear(inputs, units, bias=draw(st.booleans()), activation=draw(activations), dropout=draw(dropouts))
        )
    return wired(*layers), (widths[0],), widths[-1]


@st.composite
def convnets(draw):
    """Strides, groups, depthwise, pools, with and without a flatten that repeats channels, then linear layers."""
    dims, size = draw(st.integers(1, 3)), draw(st.integers(5, 7))
    channels = first = draw(st.sampled_from([1, 2, 3]))
    layers, spatial = [], size
    for _ in range(draw(st.integers(1, 3))):
        kernel = draw(st.integers(1, min(3, spatial)))
        stride = draw(st.integers(1, 2))
        groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
        out = groups * draw(st.integers(1, 3))
        after = (spatial - kernel) // stride + 1
        pool = draw(st.sampled_from([None, "max", "average"])) if after >= 2 else None
        layers.append(
            CONVS[dims](
                channels,
                out,
                kernel,
                stride=stride,
                groups=groups,
                bias=draw(st.booleans()),
                activation=draw(activations),
                dropout=draw(dropouts),
                pool=POOLS[pool][dims](2) if pool else None,
            )
        )
        channels, spatial = out, after // 2 if pool else after
    layers.append(nn.Flatten())
    features = channels * spatial**dims
    if draw(st.booleans()):
        units = draw(st.integers(1, 7))
        layers.append(hat.HATLinear(features, units, activation=draw(activations), bias=draw(st.booleans())))
        features = units
    return wired(*layers), (first, *[size] * dims), features


@st.composite
def shared(draw):
    if draw(st.booleans()):
        width = draw(st.integers(1, 6))
        hidden = draw(st.lists(st.integers(1, 5), min_size=1, max_size=2))
        return Residual(4, width, hidden, activation=draw(activations), bias=draw(st.booleans())), (4,), width
    return Branches(draw(st.integers(1, 4))), (1, 5, 5), 5


@st.composite
def transformers(draw):
    heads = draw(st.integers(1, 3))
    width = heads * draw(st.integers(1, 3))
    norm = draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm, nn.Identity]))
    network = Transformer(Patches(width), width, heads, 2, norm=norm, dropout=draw(dropouts))
    return convert_body(network, torch.linspace(-1, 1, 16).view(2, 1, 4, 2), head=None), (1, 4, 2), width


@st.composite
def squeezed(draw):
    network = Squeezed(draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    return convert_body(network, torch.linspace(-1, 1, 50).view(2, 1, 5, 5), head=None), (1, 5, 5), 5


networks = st.one_of(mlps(), convnets(), shared(), transformers(), squeezed())


def answer_for(module: nn.Module, answer: Answer) -> nn.Module:
    """Let every gate answer for this in this thread from now on, as if one forward pass did not end."""
    for gate in module.modules():
        if isinstance(gate, hat.Gate):
            gate.state._said.answer = answer
    return module


def anneal(module: nn.Module, progress: float) -> nn.Module:
    """The scale of every gate, as a model sets it."""
    for gate in module.modules():
        if isinstance(gate, hat.Gate):
            gate.state.set_progress(progress)
    return module


def soft(gate: hat.Gate) -> torch.Tensor:
    """[units] the gate of the task that is learned, differentiable as the layers have it."""
    config = gate.state.config
    return hat_kernels.gate(
        gate.embedding, gate.state.scale, s_max=config.s_max, compensation=config.compensation
    ).double()


def same_gradients(leaves: Iterable[torch.Tensor], got: torch.Tensor, expected: torch.Tensor) -> None:
    """Both results are one, and so are their gradients, which are not 0; all but embeddings is of float64."""
    torch.testing.assert_close(got, expected)
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(7), dtype=got.dtype)
    wanted = list(leaves)
    gradients = (torch.autograd.grad((result * weights).sum(), wanted, retain_graph=True) for result in (got, expected))
    for one, other in zip(*gradients, strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * other.abs().max().item())
