"""What networks that are converted ask of their arguments, and are converted on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def check_image(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """(C, H, W), all positive.

    Raises:
        ValueError: the shape is another.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f"input_shape: expected (C, H, W), all positive, got {tuple(input_shape)}")
    channels, height, width = input_shape
    return channels, height, width


def check_positive(**numbers: int) -> None:
    """Every one is at least 1.

    Raises:
        ValueError: names the first that is not.
    """
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")


def two_inputs(*shape: int) -> Tensor:
    """[2, *shape], no two values alike, from no random numbers: a network is the same for the same seed."""
    return torch.linspace(-1, 1, 2 * math.prod(shape)).view(2, *shape)
