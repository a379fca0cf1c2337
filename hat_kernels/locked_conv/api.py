"""A convolution whose weight gradient is computed only where the weight may move."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat_kernels.locked_conv import reference
from hat_kernels.locked_linear.api import check_frozen


def locked_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    frozen: tuple[int, int],
) -> Tensor:
    """The convolution of 1 to 3 dimensions, where the first `frozen` channels do not move where they meet.

    The result and the gradient of `x` are those of `torch.nn.functional.conv1d` and the like. The gradient of the
    weight is full-shaped, 0 in the frozen block, and computed by a convolution of the free output channels and one of
    the free input channels with the other outputs. The gradient of the bias is 0 in the frozen rows. Differentiable
    once.

    Args:
        x: [B, C, *spatial].
        weight: [N, C / groups, *kernel].
        bias: [N].
        stride, padding, dilation: one number a spatial dimension.
        groups: of channels.
        frozen: (output channels, input channels); with groups, none or all input channels.

    Returns:
        [B, N, *spatial].

    Raises:
        ValueError: `frozen` is out of range.
    """
    check_frozen(frozen, weight)
    if groups > 1 and frozen[1] not in (0, weight.shape[1]):
        raise ValueError(f"frozen: expected 0 or {weight.shape[1]} columns with groups, got {frozen[1]}")
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:  # it casts nothing that a Function gets
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if not (torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))):
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)
    return reference.locked_conv(x, weight, bias, list(stride), list(padding), list(dilation), groups, frozen)
