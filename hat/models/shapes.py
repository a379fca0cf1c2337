"""Checks of the arguments of networks, and the conversion of networks of plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hat.conversion.api import convert_body
from hat.conversion.body import Converted


def check_image(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape (C, H, W) of an image.

    Raises:
        ValueError: there are not three numbers, or one is not positive.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f"input_shape: expected (C, H, W), all positive, got {tuple(input_shape)}")
    channels, height, width = input_shape
    return channels, height, width


def check_positive(**numbers: int) -> None:
    """Check that every number is at least 1.

    Raises:
        ValueError: a number is smaller; the message names the first such number.
    """
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")


def converted(make: Callable[[], nn.Module], *shape: int) -> Converted:
    """The body that a network of plain PyTorch becomes.

    Conversion needs values. With the meta device as the default device the network is made on the CPU, then moved.

    Args:
        make: makes the network, on the default device.
        shape: of one input.
    """
    if torch.get_default_device().type != "meta":
        return convert_body(make(), _two_inputs(*shape), head=None, ours=True)
    with torch.device("cpu"):
        return converted(make, *shape).to("meta")


def _two_inputs(*shape: int) -> Tensor:
    """[2, *shape] values that are all different.

    The values are not random, so that making them does not change the random numbers that a network is drawn from.
    """
    return torch.linspace(-1, 1, 2 * math.prod(shape)).view(2, *shape)
