"""The AlexNet-like network of the HAT paper."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn

from hat.arguments import check_arguments
from hat.conversion.body import Converted
from hat.models.shapes import converted
from hat_kernels.dropout.api import check_probability


def alexnet(
    input_shape: Sequence[int],
    *,
    channels: Sequence[int] = (64, 128, 256),
    hidden: Sequence[int] = (2048, 2048),
    dropout: Sequence[float] = (0.2, 0.2, 0.5, 0.5, 0.5),
) -> Converted:
    """Three gated convolutions, each with ReLU, dropout and max-pool 2, then gated linear layers with ReLU and dropout.

    Serrà et al. 2018, section 4.1. The kernels of the convolutions are H // 8, H // 10 and 2.

    Args:
        input_shape: (C, H, W) of one image, H = W.
        channels: the number of channels of the three convolutions.
        hidden: the width of every linear layer, at least one.
        dropout: one probability in [0, 1) per layer.

    Returns:
        A body for `hat.HATModel`: [B, C, H, W] to [B, hidden[-1]].

    Raises:
        TypeError: an argument is of another class than annotated; a number, text or switch is a `ValueError`.
        ValueError: images are not square or too small, there is a wrong number of channels, hidden widths or dropouts,
            or a width is below 1.
    """
    check_arguments(alexnet, locals())
    make = partial(plain_alexnet, input_shape, channels=channels, hidden=hidden, dropout=dropout)
    return converted(make, *input_shape)


def plain_alexnet(
    input_shape: Sequence[int],
    *,
    channels: Sequence[int] = (64, 128, 256),
    hidden: Sequence[int] = (2048, 2048),
    dropout: Sequence[float] = (0.2, 0.2, 0.5, 0.5, 0.5),
) -> nn.Sequential:
    """The network of plain PyTorch that `alexnet` converts; its arguments, errors and shapes are those of `alexnet`."""
    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        raise ValueError(f"input_shape: expected (C, H, W) with H = W, got {tuple(input_shape)}")
    if len(channels) != 3 or not hidden or len(dropout) != 3 + len(hidden):
        raise ValueError(
            f"dropout: expected one per layer, for 3 channels and 1 or more hidden, got {channels}, {hidden}, {dropout}"
        )
    if min(input_shape) < 1:
        raise ValueError(f"input_shape: expected positive numbers, got {tuple(input_shape)}")
    for name, widths in (("channels", channels), ("hidden", hidden)):
        if min(widths) < 1:
            raise ValueError(f"{name}: expected positive numbers, got {tuple(widths)}")
    for probability in dropout:
        check_probability(probability, "dropout")
    inputs, size = input_shape[0], input_shape[1]
    kernels = (size // 8, size // 10, 2)
    layers: dict[str, nn.Module] = {}
    for index, (units, kernel, probability) in enumerate(zip(channels, kernels, dropout, strict=False), 1):
        if kernel < 1 or size < kernel + 1:
            raise ValueError(f"input_shape: expected images of 12 x 12 or more, got {tuple(input_shape)}")
        layers[f"conv{index}"] = nn.Conv2d(inputs, units, kernel)
        layers |= {f"relu{index}": nn.ReLU(), f"dropout{index}": nn.Dropout(probability)}
        layers[f"pool{index}"] = nn.MaxPool2d(2)
        inputs, size = units, (size - kernel + 1) // 2
    layers["flatten"] = nn.Flatten()
    inputs *= size * size
    for index, (units, probability) in enumerate(zip(hidden, dropout[3:], strict=True), 1):
        layers[f"linear{index}"] = nn.Linear(inputs, units)
        layers |= {f"relu{3 + index}": nn.ReLU(), f"dropout{3 + index}": nn.Dropout(probability)}
        inputs = units
    return nn.Sequential(OrderedDict(layers))
