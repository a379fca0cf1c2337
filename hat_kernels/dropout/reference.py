"""Dropout that does not wait for its random numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_DRAWS = 2**16  # values of one random int16; a 64-bit word of the generator holds four


def dropout(x: Tensor, probability: float) -> Tensor:
    """See `hat_kernels.dropout`."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability)
    dropped = min(round(probability * _DRAWS), _DRAWS - 1)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _DRAWS // 2
    return x * (keep.to(x.dtype) * (_DRAWS / (_DRAWS - dropped)))
