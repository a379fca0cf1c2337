"""A linear layer whose weight lies the other way round."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TransposedLinear(nn.Module):
    """`y = x W + b`, a linear layer whose weight is [inputs, outputs], as the `Conv1D` of transformers has it.

    Args:
        weight: [K, N].
        bias: [N], or None.
    """

    transposed = True
    weight: Tensor

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    @property
    def in_features(self) -> int:
        """K, the number of inputs."""
        return self.weight.shape[0]

    @property
    def out_features(self) -> int:
        """N, the number of outputs."""
        return self.weight.shape[1]

    def reset_parameters(self) -> None:
        """Draw new values as `torch.nn.Linear` does."""
        drawn = self.plain()
        with torch.no_grad():
            self.weight.copy_(drawn.weight.t())
            if self.bias is not None and drawn.bias is not None:
                self.bias.copy_(drawn.bias)

    def plain(self) -> nn.Linear:
        """A `torch.nn.Linear` with drawn values of the same sizes, device and dtype."""
        factory: dict[str, Any] = {"device": self.weight.device, "dtype": self.weight.dtype}
        return nn.Linear(self.in_features, self.out_features, self.bias is not None, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] to [..., N]."""
        return F.linear(x, self.weight.t(), self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
