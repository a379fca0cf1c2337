"""Dropout that does not wait for its random numbers."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def dropout(x: Tensor, probability: float) -> Tensor:
    """See `hat_kernels.dropout`."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability)
    return x * keep_mask(x.shape, probability, x.dtype)


def keep_mask(shape: torch.Size, probability: float, dtype: torch.dtype) -> Tensor:
    """On the CPU: 0 where an element is dropped, `keep_factor` where it stays."""
    factor, numel = keep_factor(probability), shape.numel()
    if probability == 0.5:  # a bit an element, eight of them looked up at once
        eight = _words(numel).view(torch.uint8).to(torch.int64)
        return _bytes_as_masks(dtype).index_select(0, eight).view(-1)[:numel].view(shape)
    draws, dropped = _resolution(probability)
    width = torch.int8 if draws == 2**8 else torch.int16
    drawn = _words(numel * width.itemsize * 8).view(width)[:numel].view(shape)
    return (drawn >= dropped - draws // 2).to(dtype).mul_(factor)


def keep_factor(probability: float) -> float:
    """What the elements that stay are scaled with."""
    draws, dropped = _resolution(probability)
    return draws / (draws - dropped)


def _resolution(probability: float) -> tuple[int, int]:
    """(draws, dropped): how many values a random number has, and how many of them drop an element."""
    draws = 2**8 if (probability * 2**8).is_integer() else 2**16  # a byte an element where that is exact
    return draws, min(round(probability * draws), draws - 1)


def _words(bits: int) -> Tensor:
    """Random bits, at least this many, in words of 64."""
    return torch.empty(-(-bits // 64), dtype=torch.int64).random_(-(2**63), None)


@cache
def _bytes_as_masks(dtype: torch.dtype) -> Tensor:
    """[256, 8] the mask for one half that the bits of every byte stand for."""
    bits = torch.arange(2**8)[:, None] >> torch.arange(8) & 1
    return (2 * bits).to(dtype)
