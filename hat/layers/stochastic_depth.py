"""Stochastic depth as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hat_kernels.dropout.api import check_probability


class StochasticDepth(nn.Module):
    """Drops the residual branch of whole samples in training mode: `x * k / (1 - p)`, where k is 0 or 1 per sample.

    Use it as `x + drop(branch(x))`. Huang et al., "Deep networks with stochastic depth", ECCV 2016.

    Args:
        p: probability in [0, 1) of dropping the branch of a sample.

    Raises:
        ValueError: `p` is out of range.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        check_probability(p, "p")
        self.p = float(p)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] to the same shape and dtype."""
        if not self.training or not self.p:
            return x
        keep = torch.rand(x.shape[0], device=x.device) >= self.p
        keep = keep.view(-1, *(1,) * (x.dim() - 1))
        return torch.where(keep, x / (1 - self.p), 0.0)  # a select: the product 0 * inf would be NaN

    def extra_repr(self) -> str:
        return f"p={self.p}"
