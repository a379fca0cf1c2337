"""The gate and its compensated derivative in pure PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

COSH_LIMIT = 50.0


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embedding: Tensor, scale: Tensor, s_max: float, compensation: str, floor: float) -> Tensor:
        a = torch.sigmoid(scale * embedding)
        ctx.save_for_backward(embedding, scale, a)
        ctx.s_max, ctx.compensation = s_max, compensation
        return torch.where(a < floor, 0.0, a)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        embedding, scale, a = ctx.saved_tensors
        return derivative(grad, embedding, scale, a, ctx.s_max, ctx.compensation), None, None, None, None


def derivative(grad: Tensor, embedding: Tensor, scale: Tensor, a: Tensor, s_max: float, compensation: str) -> Tensor:
    """The gradient of the embedding; see `hat_kernels.gate`.

    Args:
        grad: the gradient of the gate.
        embedding: [N].
        scale: 0-d.
        a: sigmoid(scale * embedding), without the floor.
        s_max: the final scale.
        compensation: `"none"`, `"published"` or `"exact"`.
    """
    if compensation == "exact":
        unit = torch.sigmoid(embedding)
        return grad * (s_max * unit * (1 - unit))
    q = grad * (1 - a) * a * scale
    return q * published_factor(embedding, scale, s_max) if compensation == "published" else q


def published_factor(embedding: Tensor, scale: Tensor, s_max: float) -> Tensor:
    """The factor of the published compensation: `s_max (cosh(clamp(s e, ±50)) + 1) / (s (cosh(e) + 1))`."""
    numerator = torch.cosh((scale * embedding).clamp(-COSH_LIMIT, COSH_LIMIT)) + 1
    return s_max / scale * numerator / (torch.cosh(embedding) + 1)


def gate(embedding: Tensor, scale: Tensor, s_max: float, compensation: str, floor: float) -> Tensor:
    """See `hat_kernels.gate`."""
    return _Gate.apply(embedding, scale, s_max, compensation, floor)
