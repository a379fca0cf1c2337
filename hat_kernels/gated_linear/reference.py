"""A matmul and a gated activation in pure PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hat_kernels.gate.form import GateForm
from hat_kernels.gated_activation.api import gated_activation
from hat_kernels.locked_linear.api import Update, locked


def gated_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    frozen: tuple[int, int] | None,
    update: Update | None,
    activation: str,
    dropout: float,
    gate: GateForm | None,
) -> Tensor:
    """See `hat_kernels.gated_linear`."""
    z = linear(x, weight, bias, frozen, update)
    # The backward pass of a matmul does not need its result. With more than two dimensions, z is a view of the result.
    return gated_activation(z, activation=activation, dropout=dropout, gate=gate, overwrite=z.dim() == 2)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, frozen: tuple[int, int] | None, update: Update | None
) -> Tensor:
    """`x W^T + bias`; with `frozen`, the gradient of the weight is that of `hat_kernels.locked_linear`."""
    if frozen is None:
        return F.linear(x, weight, bias)
    return locked(x, weight, bias, frozen, update)
