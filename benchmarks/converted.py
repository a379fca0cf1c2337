"""Networks that `hat.convert` makes from plain PyTorch: residual networks and transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

import hat
from hat.models.resnet import plain_resnet
from hat.models.vit import plain_vit

Maker = Callable[..., nn.Module]
KINDS: dict[str, tuple[Maker, Maker]] = {
    "resnet18": (partial(plain_resnet, 18), hat.models.resnet18),
    "vit": (plain_vit, hat.models.vit),
}
"""For every kind, a function that makes the plain network, and a function that makes the converted network."""


@dataclass(frozen=True, kw_only=True)
class ConvertedNetwork:
    """A plain PyTorch network and the network converted from it. Used in place of a `workload.Network`.

    Attributes:
        name: the name in tables.
        kind: a key of `KINDS`.
        input_shape: (C, H, W) of one image.
        features: the number of inputs of the head.
        options: the arguments of the functions in `KINDS`.
        classes: the number of classes of every task.
    """

    name: str
    kind: str
    input_shape: tuple[int, int, int]
    features: int
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 10

    def plain(self) -> nn.Sequential:
        """The plain network with one head."""
        network = KINDS[self.kind][0](self.input_shape, **self.options)
        return nn.Sequential(network, nn.Linear(self.features, self.classes))

    def body(self) -> nn.Module:
        """The converted network without a head. All calls return equal copies."""
        return copy.deepcopy(self._converted)

    @property
    def units(self) -> tuple[int, ...]:
        """The length of every gate, in order."""
        return tuple(gate.units for gate in self._converted.gates.values())

    @cached_property
    def _converted(self) -> Any:
        """The converted network. It is made once, because a large transformer takes seconds to convert."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return KINDS[self.kind][1](self.input_shape, **self.options)

    def __str__(self) -> str:
        return f"{self.name} " + "x".join(map(str, self.input_shape))


RESNET18 = ConvertedNetwork(
    name="ResNet-18", kind="resnet18", input_shape=(3, 224, 224), features=512, options={"stem": "image"}
)
VIT_B = ConvertedNetwork(
    name="ViT-B/16",
    kind="vit",
    input_shape=(3, 224, 224),
    features=768,
    options={"patch": 16, "features": 768, "depth": 12, "heads": 12},
)
SMALL_RESNET18 = ConvertedNetwork(
    name="ResNet-18", kind="resnet18", input_shape=(3, 64, 64), features=512, options={"stem": "image"}
)
SMALL_VIT = ConvertedNetwork(
    name="ViT 4 x 192",
    kind="vit",
    input_shape=(3, 64, 64),
    features=192,
    options={"patch": 8, "features": 192, "depth": 4, "heads": 3},
)
TINY_RESNET18 = ConvertedNetwork(
    name="ResNet-18", kind="resnet18", input_shape=(3, 16, 16), features=16, options={"stem": "image", "width": 2}
)
TINY_VIT = ConvertedNetwork(
    name="ViT 1 x 4",
    kind="vit",
    input_shape=(3, 8, 8),
    features=4,
    options={"patch": 4, "features": 4, "depth": 1, "heads": 2},
)
