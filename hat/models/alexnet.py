"""The AlexNet-like network of the HAT paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hat.layers.chain import chain
from hat.layers.convolutions import HATConv2d
from hat.layers.gated import HATLinear


def alexnet(
    input_shape: Sequence[int],
    *,
    channels: Sequence[int] = (64, 128, 256),
    hidden: Sequence[int] = (2048, 2048),
    dropout: Sequence[float] = (0.2, 0.2, 0.5, 0.5, 0.5),
) -> nn.Sequential:
    """Three gated convolutions, each with ReLU, dropout and max-pool 2, and two gated linear layers.

    Serrà et al. 2018, section 4.1; the kernels are size // 8, size // 10 and 2.

    Args:
        input_shape: (C, H, W) of one image, H = W.
        channels: of the three convolutions.
        hidden: the width of every linear layer, at least one.
        dropout: one probability in [0, 1) a layer.

    Returns:
        A body for `hat.HATModel`: [B, C, H, W] to [B, hidden[-1]].

    Raises:
        ValueError: an image that is not square or too small, or a wrong number of channels or dropouts.
    """
    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        raise ValueError(f"input_shape: expected (C, H, W) with H = W, got {tuple(input_shape)}")
    if len(channels) != 3 or not hidden or len(dropout) != 3 + len(hidden):
        raise ValueError(
            f"dropout: expected one a layer for 3 channels and 1 or more hidden, got {channels}, {hidden}, {dropout}"
        )
    inputs, size = input_shape[0], input_shape[1]
    kernels = (size // 8, size // 10, 2)
    layers: dict[str, nn.Module] = {}
    for index, (units, kernel, probability) in enumerate(zip(channels, kernels, dropout, strict=False), 1):
        if kernel < 1 or size < kernel + 1:
            raise ValueError(f"input_shape: expected images of 12 x 12 or more, got {tuple(input_shape)}")
        layers[f"conv{index}"] = HATConv2d(inputs, units, kernel, dropout=probability, pool=nn.MaxPool2d(2))
        inputs, size = units, (size - kernel + 1) // 2
    layers["flatten"] = nn.Flatten()
    inputs *= size * size
    for index, (units, probability) in enumerate(zip(hidden, dropout[3:], strict=True), 1):
        layers[f"linear{index}"] = HATLinear(inputs, units, dropout=probability)
        inputs = units
    return chain(**layers)
