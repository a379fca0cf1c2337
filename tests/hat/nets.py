"""Random small networks, for the tests of what must hold for every network."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from hypothesis import strategies as st
from torch import nn

import hat
import hat_kernels
from hat.units.state import Answer

ACTIVATIONS = ["relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "identity"]
CONVS = {1: hat.HATConv1d, 2: hat.HATConv2d, 3: hat.HATConv3d}
POOLS = {
    "max": {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d},
    "average": {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d},
}

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


class RootMeanSquare(nn.Module):
    """In the place of a norm: every token by the root of its mean square. Off-units stay 0, and it learns nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + x.square().mean(-1, keepdim=True)).rsqrt()


def blocks(stream: hat.Gate, heads: int, count: int, norm: bool, **options) -> list[nn.Module]:
    """Attention over heads or dimensions in turn, and a feed-forward part, plain or with a switch in turn."""
    width, found = stream.units, []
    for index in range(count):
        feed_forward = hat.SwiGLU if index % 2 else hat.FeedForward
        per_head = index % 2 == 0
        found += [
            hat.HATMultiheadAttention(width, heads, gate=stream, inputs=stream, per_head=per_head, **options),
            feed_forward(width, width + 1, gate=stream, inputs=stream, **options),
        ]
    norms = [hat.HATLayerNorm(width, gate=stream) if norm else RootMeanSquare() for _ in found]
    return list(map(nn.Sequential, norms, found))


class Transformer(nn.Module):
    """Patches or words, a class token, positions, blocks on one stream, and the mean over tokens."""

    def __init__(
        self,
        tokens: nn.Module,
        heads: int,
        positions: int,
        *,
        norm: bool = False,
        dropout: float = 0.0,
        count: int = 2,
    ) -> None:
        super().__init__()
        stream, width = tokens.gate, tokens.gate.units
        self.tokens = tokens
        self.first = hat.ClassToken(width, gate=stream)
        self.positions = hat.PositionalTable(positions + 1, width, gate=stream)
        self.blocks = nn.ModuleList(blocks(stream, heads, count, norm, dropout=dropout))
        self.drop = hat.StochasticDepth(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.positions(self.first(self.tokens(x)))
        for block in self.blocks:
            x = x + self.drop(block(x))
        return x.mean(1)


class Squeezed(nn.Module):
    """Two convolutions whose channels weigh each other."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.one = hat.HATConv2d(1, channels, 3)
        self.weigh = hat.SqueezeExcitation(channels, reduced, gate=self.one.gate)
        self.two = hat.HATConv2d(channels, 5, 2, inputs=self.one.gate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.weigh(self.one(x))).mean((2, 3))


def outputs_of(body: nn.Module) -> hat.Gate | None:
    """The gate at the end of a network that is wired by hand."""
    ends = {Residual: "stem", Branches: "head", Transformer: "tokens", Squeezed: "two"}
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
    return hat.chain(*layers), (widths[0],), widths[-1]


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
    return hat.chain(*layers), (first, *[size] * dims), features


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
    patches = hat.PatchEmbedding((4, 2), 2, 1, width)
    return Transformer(patches, heads, patches.positions, dropout=draw(dropouts)), (1, 4, 2), width


@st.composite
def squeezed(draw):
    return Squeezed(draw(st.integers(1, 4)), draw(st.integers(1, 3))), (1, 5, 5), 5


networks = st.one_of(mlps(), convnets(), shared(), transformers(), squeezed())


def answer_for(module: nn.Module, answer: Answer) -> nn.Module:
    """Let every gate answer for this, as a model does for one forward pass; see `hat.units.state.State`."""
    for gate in module.modules():
        if isinstance(gate, hat.Gate):
            gate.state.answer = answer
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
