"""Small networks of every kind that the soak lives with."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hat

RECOMPUTE = ("never", "reentrant", "not reentrant")


class Centre(nn.Module):
    """Subtracts a running mean: a buffer of the network's own, which training writes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return torch.tanh(x - self.mean)


class Wired(nn.Module):
    """Layers that are wired by hand; the block in the middle may be computed again in the backward pass.

    Attributes:
        recompute: one of `RECOMPUTE`.
    """

    def __init__(self, first: nn.Module, block: nn.Module, last: hat.HATLinear) -> None:
        super().__init__()
        self.first, self.block, self.last = first, block, last
        self.recompute = "never"

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.recompute == "never":
            return self.last(self.block(x))
        return self.last(checkpoint(self.block, x, use_reentrant=self.recompute == "reentrant"))


class Residual(nn.Module):
    """x + down(up(x)), on one stream of units."""

    def __init__(self, width: int, hidden: int, stream: hat.Gate) -> None:
        super().__init__()
        self.up = hat.HATLinear(width, hidden, inputs=stream)
        self.down = hat.HATLinear(hidden, width, inputs=self.up.gate, gate=stream, activation="identity")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x))


class LoRA(nn.Module):
    """A frozen linear layer with a low-rank adapter (Hu et al., ICLR 2022)."""

    def __init__(self, inputs: int, outputs: int, rank: int = 2) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Block(nn.Module):
    """A residual block of two convolutions with norms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm, self.last_norm = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.last_norm(self.two(torch.relu(self.norm(self.one(x))))))


def _mlp() -> hat.HATModel:
    return hat.HATModel(hat.models.mlp(6, (10, 8), dropout=0.2))


def _conv() -> hat.HATModel:
    network = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 2), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)),
    )
    return hat.convert(network, torch.randn(2, 1, 4, 4))


def _resnet() -> hat.HATModel:
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        Block(6),
        nn.Sequential(nn.Conv2d(6, 8, 2, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        Block(8),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)),
    )
    return hat.convert(network, torch.randn(2, 1, 4, 4))


def _vit() -> hat.HATModel:
    return hat.HATModel(hat.models.vit((1, 4, 4), patch=2, features=8, depth=1, heads=2, hidden=8))


def _wired() -> hat.HATModel:
    first = hat.HATLinear(6, 10)
    block = Residual(10, 8, first.gate)
    return hat.HATModel(Wired(first, block, hat.HATLinear(10, 8, inputs=first.gate)))


def _buffer() -> hat.HATModel:
    inside = hat.HATLinear(6, 10)
    return hat.HATModel(
        Wired(nn.Identity(), nn.Sequential(Centre(6), inside), hat.HATLinear(10, 8, inputs=inside.gate))
    )


def _lora() -> hat.HATModel:
    network = nn.Sequential(LoRA(6, 10), nn.ReLU(), LoRA(10, 8), nn.ReLU(), nn.Linear(8, 2))
    return hat.convert(network, torch.randn(2, 6))


@dataclass(frozen=True)
class Network:
    """A kind of network.

    Attributes:
        make: makes a model.
        shape: of one input.
        steady: in training mode a finished task answers as in evaluation mode: there is no dropout, and no module of
            the user that writes a buffer.
    """

    make: Callable[[], hat.HATModel]
    shape: tuple[int, ...]
    steady: bool = True


NETWORKS = {
    "mlp": Network(_mlp, (6,), steady=False),
    "conv": Network(_conv, (1, 4, 4)),
    "resnet": Network(_resnet, (1, 4, 4)),
    "vit": Network(_vit, (1, 4, 4)),
    "wired": Network(_wired, (6,)),
    "buffer": Network(_buffer, (6,), steady=False),
    "lora": Network(_lora, (6,)),
}


def fresh(name: str) -> hat.HATModel:
    """A model that has learned nothing; every call gives the same values."""
    return copy.deepcopy(_template(name))


@functools.cache
def _template(name: str) -> hat.HATModel:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return NETWORKS[name].make()
