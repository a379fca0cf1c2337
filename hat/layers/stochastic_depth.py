"""Stochastic depth as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hat_kernels.dropout.api import check_probability


class StochasticDepth(nn.Module):
    """Drops a residual branch of whole samples in training: `x * k / (1 - p)`, `k` 0 or 1 a sample.

    After Huang et al., "Deep networks with stochastic depth", ECCV 2016. For `x + drop(branch(x))`.

    Args:
        p: probability in [0, 1) of dropping the branch of a sample.

    Raises:
        ValueError: `p` is out of range.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        check_probability(p, "p")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...], kept."""
        if not self.training or not self.p:
            return x
        keep = torch.rand(x.shape[0], device=x.device) >= self.p
        keep = keep.view(-1, *(1,) * (x.dim() - 1))
        return torch.where(keep, x / (1 - self.p), 0.0)  # not a product: of inf it would be NaN

    def extra_repr(self) -> str:
        return f"p={self.p}"
