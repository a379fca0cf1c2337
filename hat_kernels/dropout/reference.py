"""Dropout that does not wait for its random numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dropout(x: Tensor, probability: float) -> Tensor:
    """See `hat_kernels.dropout`."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability)
    # A byte an element where that is exact, as for one half; else two.
    dtype = torch.int8 if (probability * 2**8).is_integer() else torch.int16
    draws = 2 ** (8 * dtype.itemsize)
    dropped = min(round(probability * draws), draws - 1)
    words = torch.empty(-(-x.numel() * dtype.itemsize // 8), dtype=torch.int64).random_(-(2**63), None)
    keep = words.view(dtype)[: x.numel()].view(x.shape) >= dropped - draws // 2
    return x * (keep.to(x.dtype) * (draws / (draws - dropped)))
