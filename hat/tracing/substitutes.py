"""What stands in a graph for things that a graph cannot say otherwise."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class DroppedAttention(nn.Module):
    """`torch.nn.functional.scaled_dot_product_attention` that drops weights in training mode.

    Args:
        p: probability in [0, 1] of dropping a weight.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **rest: Any
    ) -> Tensor:
        """query [..., L, E], key [..., S, E], value [..., S, V], to [..., L, V]."""
        p = self.p if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask, p, **rest)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def assigned(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """The tensor after `tensor[index] = value`, as a new one."""
    result = tensor.clone()
    result[index] = value
    return result
