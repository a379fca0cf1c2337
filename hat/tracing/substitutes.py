"""What stands in a graph for calls that a graph cannot express directly."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DroppedAttention(nn.Module):
    """`torch.nn.functional.scaled_dot_product_attention` with dropout of attention weights in training mode.

    Args:
        p: the probability in [0, 1] that a weight is dropped.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Attention of query [..., L, E], key [..., S, E] and value [..., S, V]: [..., L, V].

        `options` go to `scaled_dot_product_attention`.
        """
        p = self.p if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask, p, **options)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Applied:
    """`apply` of a `torch.autograd.Function`, as a function that can be pickled.

    Args:
        function: the class.
    """

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        self.function = function
        self.__name__ = self.__qualname__ = function.__name__

    def __call__(self, *inputs: Any) -> Any:
        return self.function.apply(*inputs)


def assigned(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """A copy of `tensor` after `copy[index] = value`."""
    result = tensor.clone()
    result[index] = value
    return result
