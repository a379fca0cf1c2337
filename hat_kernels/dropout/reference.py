"""Dropout in pure PyTorch, with few random numbers on a CPU."""

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
    """A mask on the CPU: 0 for a dropped element, `keep_factor(probability)` for a kept one."""
    factor, numel = keep_factor(probability), shape.numel()
    if probability == 0.5:  # one bit for each element; a table turns eight bits into eight elements
        octets = _words(numel).view(torch.uint8).to(torch.int64)
        return _bytes_as_masks(dtype).index_select(0, octets).view(-1)[:numel].view(shape)
    draws, dropped = _resolution(probability)
    width = torch.int8 if draws == 2**8 else torch.int16
    random = _words(numel * width.itemsize * 8).view(width)[:numel].view(shape)
    return (random >= dropped - draws // 2).to(dtype).mul_(factor)


def keep_factor(probability: float) -> float:
    """The factor of the kept elements, one over the probability to be kept."""
    draws, dropped = _resolution(probability)
    return draws / (draws - dropped)


def _resolution(probability: float) -> tuple[int, int]:
    """(draws, dropped): how many values a random number can have, and how many of these drop the element."""
    # One byte for each element if that is exact, else two. `float` because an int of Python 3.11 has no `is_integer`.
    draws = 2**8 if float(probability * 2**8).is_integer() else 2**16
    return draws, min(round(probability * draws), draws - 1)


def _words(bits: int) -> Tensor:
    """At least `bits` random bits, as words of 64."""
    return torch.empty(-(-bits // 64), dtype=torch.int64).random_(-(2**63), None)


@cache
def _bytes_as_masks(dtype: torch.dtype) -> Tensor:
    """[256, 8] for each value of a byte, the mask of its 8 elements; for probability 1/2."""
    bits = torch.arange(2**8)[:, None] >> torch.arange(8) & 1
    return (2 * bits).to(dtype)
