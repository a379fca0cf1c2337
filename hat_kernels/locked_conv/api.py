"""A convolution that computes the gradient of its weight only for the weights that may move."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat_kernels.check import check_tensors, got
from hat_kernels.locked_conv import reference
from hat_kernels.locked_linear.api import check_frozen, check_same_kind


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
        TypeError: `x` and `weight` differ in dtype outside of autocast, or something is not of the kind described
            above.
        ValueError: a shape or device does not fit, a number is out of range, the kernel is larger than the padded
            input, or `frozen` freezes a part of the input channels with groups > 1.
    """
    _check(x, weight, bias, stride, padding, dilation, groups, frozen)
    # Autocast does not cast the inputs of an autograd function.
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if not (torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))):
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)
    return reference.locked_conv(x, weight, bias, list(stride), list(padding), list(dilation), groups, frozen)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    frozen: tuple[int, int],
) -> None:
    """Check the arguments of a convolution; see `locked_conv`."""
    check_tensors(x=x, weight=weight)
    dims = weight.dim() - 2
    if not 1 <= dims <= 3 or x.dim() != weight.dim():
        shapes = f"x {tuple(x.shape)} and weight {tuple(weight.shape)}"
        raise ValueError(f"x, weight: expected the same 3 to 5 dimensions, got {shapes}")
    if not weight.numel():
        raise ValueError(f"weight: expected at least one element, got {tuple(weight.shape)}")
    if not isinstance(groups, int) or groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"groups: expected a divisor of {weight.shape[0]}, got {got(groups)}")
    if x.shape[1] != weight.shape[1] * groups:
        raise ValueError(f"x: expected {weight.shape[1] * groups} channels, got {tuple(x.shape)}")
    check_same_kind(x, weight, bias)
    for name, values, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        if not isinstance(values, (list, tuple)) or len(values) != dims:
            raise TypeError(f"{name}: expected a tuple of {dims} ints, got {got(values)}")
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _LONGEST:
                raise ValueError(f"{name}: expected ints from {least} on, got {got(value)}")
    for size, kernel, pad, spread in zip(x.shape[2:], weight.shape[2:], padding, dilation, strict=True):
        if size + 2 * pad < spread * (kernel - 1) + 1:
            sizes = f"{tuple(x.shape)} and a kernel {tuple(weight.shape[2:])} with dilation {tuple(dilation)}"
            raise ValueError(f"x: expected room for the kernel in the padded input, got {sizes}")
    check_frozen(frozen, weight)
    if groups > 1 and frozen[1] not in (0, weight.shape[1]):
        raise ValueError(f"frozen: expected 0 or {weight.shape[1]} columns with groups, got {frozen[1]}")


_LONGEST = 2**31  # of a step or a padding, so that a size of the result fits into 64 bits
