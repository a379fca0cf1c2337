"""The capacity penalty and its gradient in pure PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat_kernels.gate.reference import derivative

SMALLEST = 2.0**-126  # normal float32; a smaller sum over the free units is 0, and then the sum above it is 0, too


def value(embeddings: Sequence[Tensor], frees: Sequence[Tensor], scale: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """(R, the sum of `frees`); see `hat_kernels.penalty`."""
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
    """The gradients of the embeddings, one for each gate."""
    embedding = torch.cat(list(embeddings))
    gate_grad = torch.cat(list(frees)) * (grad / total.clamp_min(SMALLEST))
    result = derivative(gate_grad, embedding, scale, torch.sigmoid(scale * embedding), s_max, compensation)
    return list(result.split([len(units) for units in embeddings]))
