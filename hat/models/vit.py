"""The vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.arguments import check_arguments
from hat.conversion.body import Converted
from hat.layers.stochastic_depth import StochasticDepth
from hat.models.shapes import check_image, check_positive, converted
from hat_kernels.dropout.api import check_probability

POOLS = ("token", "mean")
_STD = 0.02  # the standard deviation of all weights except the patches' at the start, as usual for transformers


def vit(
    input_shape: Sequence[int],
    *,
    patch: int = 4,
    features: int = 192,
    depth: int = 6,
    heads: int = 3,
    hidden: int | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    pool: str = "token",
) -> Converted:
    """A transformer over the patches of an image: Dosovitskiy et al., ICLR 2021.

    The residual stream has one gate. In every block, query and key share one gate, and the value and the hidden layer
    have one gate each. Norms are per task. The defaults suit images of 32 pixels per side. For images of 224 pixels per
    side, `patch=16` and `depth=12` give a network as in the paper.

    Args:
        input_shape: (C, H, W) of one image.
        patch: pixels per side of a patch, a divisor of H and W.
        features: the width of the residual stream, a multiple of `heads`.
        depth: the number of blocks, >= 1.
        heads: the number of heads of every attention, >= 1.
        hidden: the width of the hidden layer of every block; by default four times `features`.
        dropout: probability in [0, 1) of dropping a feature: behind the positions, attention and both linear layers.
        stochastic_depth: probability in [0, 1) of dropping the branches of the last block for a sample. It grows
            linearly from 0 at the first block.
        pool: `"token"`, the heads get the class token, which is the first token; or `"mean"`, the heads get the mean
            over all patches.

    Returns:
        A body for `hat.HATModel`: [B, C, H, W] to [B, features].

    Raises:
        TypeError: an argument is of another class than annotated; a number, text or switch is a `ValueError`.
        ValueError: an option is out of range.
    """
    check_arguments(vit, locals())
    make = partial(
        plain_vit,
        input_shape,
        patch=patch,
        features=features,
        depth=depth,
        heads=heads,
        hidden=hidden,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        pool=pool,
    )
    return converted(make, *input_shape)


def plain_vit(
    input_shape: Sequence[int],
    *,
    patch: int = 4,
    features: int = 192,
    depth: int = 6,
    heads: int = 3,
    hidden: int | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    pool: str = "token",
) -> nn.Module:
    """The network of plain PyTorch that `vit` converts; its arguments, errors and shapes are those of `vit`."""
    channels, height, width = check_image(input_shape)
    hidden = 4 * features if hidden is None else hidden
    check_positive(patch=patch, features=features, depth=depth, heads=heads, hidden=hidden)
    check_probability(dropout, "dropout")
    check_probability(stochastic_depth, "stochastic_depth")
    if height % patch or width % patch:
        raise ValueError(f"patch: expected one that divides {height} x {width}, got {patch}")
    if features % heads:
        raise ValueError(f"features: expected a multiple of {heads} heads, got {features}")
    if pool not in POOLS:
        raise ValueError(f"pool: expected one of {POOLS}, got {pool!r}")
    network = _ViT(channels, (height // patch) * (width // patch), patch, features, dropout, pool)
    for index in range(depth):
        drop = stochastic_depth * index / max(1, depth - 1)
        network.blocks.append(_EncoderBlock(features, heads, hidden, dropout, drop))
    return network


class _ViT(nn.Module):
    """Patches, class token, positions, blocks and a norm; then the first token, or the mean of all tokens."""

    def __init__(self, channels: int, patches: int, patch: int, features: int, dropout: float, pool: str) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, features, patch, patch)
        with_token = pool == "token"
        self.token = nn.Parameter(_drawn(1, 1, features)) if with_token else None
        self.positions = nn.Parameter(_drawn(1, patches + with_token, features))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential()
        self.norm = nn.LayerNorm(features)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(self.dropout(x + self.positions)))
        features: Tensor = x.mean(1) if self.token is None else x[:, 0]
        return features


class _EncoderBlock(nn.Module):
    """Attention, then two linear layers. Each of the two has a norm in front, and is added to its input."""

    def __init__(self, features: int, heads: int, hidden: int, dropout: float, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features)
        self.attention = _Attention(features, heads, dropout)
        self.norm2 = nn.LayerNorm(features)
        layers = (_linear(features, hidden), nn.GELU(), nn.Dropout(dropout))
        self.mlp = nn.Sequential(*layers, _linear(hidden, features), nn.Dropout(dropout))
        self.drop = StochasticDepth(drop) if drop else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        y: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return y


class _Attention(nn.Module):
    """Attention. Query, key and value are three layers, so that the locked weights of each are one block."""

    def __init__(self, features: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = _linear(features, features), _linear(features, features)
        self.value, self.output = _linear(features, features), _linear(features, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        y: Tensor = self.dropout(self.output(mixed))
        return y


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=_STD)
    nn.init.zeros_(layer.bias)
    return layer


def _drawn(*shape: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), std=_STD)
