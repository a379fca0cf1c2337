"""The capacity penalty and its gradient in pure PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat_kernels.gate.reference import derivative

SMALLEST = 2.0**-126  # of a normal float32: the sum over free units is 0, with an attention of 0 above it, or larger


def value(embeddings: Sequence[Tensor], frees: Sequence[Tensor], scale: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """(R, the sum over the free units); see `hat_kernels.penalty`."""
    free = torch.cat(list(frees))
    a = torch.sigmoid(scale * torch.cat(list(embeddings)))
    attention = torch.where(a < floor, 0.0, a) * free
    total = free.sum()
    return attention.sum() / total.clamp_min(SMALLEST), total


def gradients(
    grad: Tensor,
    embeddings: Sequence[Tensor],
    frees: Sequence[Tensor],
    total: Tensor,
    scale: Tensor,
    s_max: float,
    compensation: str,
) -> list[Tensor]:
    """The gradient of every embedding."""
    embedding = torch.cat(list(embeddings))
    pull = torch.cat(list(frees)) * (grad / total.clamp_min(SMALLEST))
    result = derivative(pull, embedding, scale, torch.sigmoid(scale * embedding), s_max, compensation)
    return list(result.split([len(each) for each in embeddings]))
