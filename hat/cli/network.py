"""The options that describe a network, as plain numbers and names."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from hat import models
from hat.arguments import check_choice, check_number, check_whole, got
from hat.models.resnet import STEMS

_RESNETS = {"resnet18": models.resnet18, "resnet34": models.resnet34, "resnet50": models.resnet50}
_OPTIONS = {
    "mlp": ("hidden", "dropout"),
    "alexnet": ("hidden", "dropout"),
    **dict.fromkeys(_RESNETS, ("width", "stem", "dropout")),
    "vit": ("hidden", "width", "depth", "heads", "patch", "dropout"),
}
NETWORKS = tuple(_OPTIONS)
MOST_BLOCKS = 10_000
"""More is a slip of the keyboard, and would fill the memory before a run begins."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """The options of a network.

    Attributes:
        network: a network of the paper, for flat inputs (mlp) or images (alexnet); a resnet; or a transformer over
            patches (vit).
        hidden: widths of the linear layers; for a vit, one width for all blocks. Default: as in the paper; for a vit,
            four times its width.
        width: for a resnet, the channels of the first stage, by default 64; for a vit, the features, by default 192.
        stem: for a resnet: small keeps the size of an image, image divides it by four. Default: small up to 64 pixels.
        depth: for a vit, the number of blocks, by default 6.
        heads: for a vit, the number of attention heads, by default 3.
        patch: for a vit, the pixels of a side of a patch, by default 4.
        dropout: one probability for all layers, from 0 to below 1. Default: as in the paper; for a resnet and a vit 0.

    Raises:
        ValueError: an option is out of range, or this network does not have it.
    """

    network: str = "mlp"
    hidden: tuple[int, ...] | None = None
    width: int | None = None
    stem: str | None = None
    depth: int | None = None
    heads: int | None = None
    patch: int | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        check_choice("network", self.network, NETWORKS)
        check_sizes("hidden", self.hidden)
        for name in ("width", "depth", "heads", "patch"):
            if getattr(self, name) is not None:
                _check_size(name, getattr(self, name))
        if self.depth is not None and self.depth > MOST_BLOCKS:
            raise ValueError(f"depth: expected at most {MOST_BLOCKS:,}, got {self.depth}")
        if self.stem is not None:
            check_choice("stem", self.stem, STEMS)
        if self.dropout is not None:
            check_number("dropout", self.dropout, least=0, below=1)
        for name in self._given():
            if name not in _OPTIONS[self.network]:
                takers = ", ".join(network for network, options in _OPTIONS.items() if name in options)
                raise ValueError(f"{name}: expected for {takers} only, got {getattr(self, name)} for {self.network}")
        if self.network == "vit" and self.hidden is not None and len(self.hidden) != 1:
            raise ValueError(f"hidden: expected one width for all blocks of a vit, got {self.hidden}")

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Build the body for inputs (C, H, W).

        Raises:
            ValueError: the network cannot take such inputs.
        """
        try:
            return self._build(input_shape)
        except ValueError as error:
            argument, _, rest = str(error).partition(": ")
            if argument == "features":  # as the networks call the width of a vit
                raise ValueError(f"width: {rest}") from None
            if argument == "input_shape":
                raise ValueError(f"network: {self.network}: {error}; --size H W resizes all images") from None
            raise

    def _build(self, input_shape: tuple[int, ...]) -> nn.Module:
        options = self._given()
        if self.network == "mlp":
            return models.mlp(math.prod(input_shape), **self._everywhere(options))
        if self.network == "alexnet":
            return models.alexnet(input_shape, **self._a_layer(options))
        if self.network == "vit":
            return models.vit(input_shape, **_of_a_vit(options))
        return _RESNETS[self.network](input_shape, **options)

    def _given(self) -> dict[str, Any]:
        """The options that were given."""
        options = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "network"}
        return {name: value for name, value in options.items() if value is not None}

    def _everywhere(self, options: dict[str, Any]) -> dict[str, Any]:
        return options if self.dropout is None else options | {"input_dropout": self.dropout}

    def _a_layer(self, options: dict[str, Any]) -> dict[str, Any]:
        linear = 2 if self.hidden is None else len(self.hidden)
        paper = (0.2, 0.2, 0.5) + (0.5,) * linear
        return options | {"dropout": paper if self.dropout is None else (self.dropout,) * len(paper)}


def _of_a_vit(options: dict[str, Any]) -> dict[str, Any]:
    names = {"width": "features"}
    return {names.get(name, name): value[0] if name == "hidden" else value for name, value in options.items()}


def check_sizes(name: str, values: object) -> None:
    """Check an option that is None or a tuple of numbers.

    Raises:
        ValueError: the tuple is empty or no tuple, or a number is below 1.
    """
    if values is not None and not (isinstance(values, tuple) and values):
        raise ValueError(f"{name}: expected at least one number, got {values!r}")
    for value in values or ():
        _check_size(name, value)


def _check_size(name: str, value: int) -> None:
    check_whole(name, value, least=1)
    if value >= 2**31:  # far more than any memory holds; torch itself fails at 2^63
        raise ValueError(f"{name}: expected below 2^31, got {got(value)}")
