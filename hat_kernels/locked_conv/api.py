"""A convolution that computes the gradient of its weight only for the weights that may move."""

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
    """A convolution of 1 to 3 dimensions, where the leading block of channels of the weight does not move.

    With `frozen = (outputs, inputs)` the block is `weight[:outputs, :inputs]`. The result and the gradient of `x` are
    those of `torch.nn.functional.conv1d`, `conv2d` and `conv3d`. The gradient of the weight has the full shape. It is 0
    in the frozen block. One convolution computes it for the free output channels, and one for the free input channels
    of the frozen output channels: see `hat_kernels/frozen.py`. The gradient of the bias is 0 for the frozen output
    channels. Differentiable once.

    Args:
        x: [B, C, *spatial].
        weight: [N, C / groups, *kernel].
        bias: [N].
        stride, padding, dilation: one number for each spatial dimension.
        groups: the number of groups of channels.
        frozen: (output channels, input channels). With groups > 1, the second is 0 or C / groups.

    Returns:
        [B, N, *spatial].

    Raises:
        ValueError: `frozen` is out of range, or freezes a part of the input channels with groups > 1.
    """
    check_frozen(frozen, weight)
    if groups > 1 and frozen[1] not in (0, weight.shape[1]):
        raise ValueError(f"frozen: expected 0 or {weight.shape[1]} columns with groups, got {frozen[1]}")
    # Autocast does not cast the inputs of an autograd function.
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if not (torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))):
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)
    return reference.locked_conv(x, weight, bias, list(stride), list(padding), list(dilation), groups, frozen)
