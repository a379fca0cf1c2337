"""Dropout that does not wait for its random numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_DRAWS = 2**16  # values of one random int16; a 64-bit word of the generator holds four


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero each element with `probability`, scale the rest by the reciprocal of the share that is kept on average.

    A CPU draws random numbers one after another, and PyTorch takes one of 64 bits for each element: that was a fifth
    of a plain training step. Here four elements share such a word, which rounds the probability to a multiple of
    2^-16; the scale follows the rounded one, so the expectation is exactly x. Other devices use PyTorch's dropout.

    Args:
        x: any shape, floating.
        probability: in [0, 1).
    """
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    dropped = min(round(probability * _DRAWS), _DRAWS - 1)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _DRAWS // 2
    return x * (keep.to(x.dtype) * (_DRAWS / (_DRAWS - dropped)))
