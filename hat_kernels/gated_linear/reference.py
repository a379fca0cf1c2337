"""Matmul and gated activation in pure PyTorch."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hat_kernels.gated_activation.api import gated_activation


def gated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, **epilogue: Any) -> Tensor:
    """See `hat_kernels.gated_linear`."""
    return gated_activation(F.linear(x, weight, bias), **epilogue)
