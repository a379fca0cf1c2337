"""A convolution, and the gradient of the weights that may move, by the convolutions of PyTorch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hat_kernels.gradient_memory import complete, take


class _Geometry(NamedTuple):
    """How a convolution walks over its input."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        return torch.convolution(x, weight, bias, *self, False, [0] * len(self.stride), groups)

    def backward(
        self, dz: Tensor, x: Tensor, weight: Tensor, groups: int, needs: list[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of x, the weight and the bias; None for a gradient that `needs` does not ask for."""
        gradients: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
            dz, x, weight, [len(weight)], *self, False, [0] * len(self.stride), groups, needs
        )
        return gradients

    def weight_gradient(self, dz: Tensor, x: Tensor, weight: Tensor, groups: int) -> Tensor:
        gradient = self.backward(dz, x, weight, groups, [False, True, False])[1]
        assert gradient is not None
        return gradient


class _LockedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: _Geometry,
        groups: int,
        frozen: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.groups, ctx.frozen = geometry, groups, frozen
        return geometry.forward(x, weight, bias, groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dx, _, db = ctx.geometry.backward(dz, x, weight, ctx.groups, [needs_x, False, needs_bias])
        dw = weight_gradient(dz, x, weight, ctx.geometry, ctx.groups, ctx.frozen) if needs_weight else None
        if db is not None:
            db[: ctx.frozen[0]] = 0
        return dx, dw, db, None, None, None


def weight_gradient(
    dz: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry, groups: int, frozen: tuple[int, int]
) -> Tensor:
    """The gradient of the weight, but 0 in the frozen block."""
    rows, columns = frozen if frozen[1] else (0, 0)
    grad = take(weight, (rows, columns))
    if groups > 1:  # leave out the groups of which all outputs are frozen
        frozen_groups = rows * groups // len(weight)
        first_row, first_input = frozen_groups * len(weight) // groups, frozen_groups * weight.shape[1]
    else:
        frozen_groups, first_row, first_input = 0, rows, 0
    if first_row < len(weight):
        below = geometry.weight_gradient(
            dz[:, first_row:], x[:, first_input:], weight[first_row:], groups - frozen_groups
        )
        grad[rows:] = below[rows - first_row :]
    if rows and columns < weight.shape[1]:
        grad[:rows, columns:] = geometry.weight_gradient(dz[:, :rows], x[:, columns:], weight[:rows, columns:], 1)
    complete(weight, grad)
    return grad


def locked_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    frozen: tuple[int, int],
) -> Tensor:
    """See `hat_kernels.locked_conv`."""
    result: Tensor = _LockedConv.apply(x, weight, bias, _Geometry(stride, padding, dilation), groups, frozen)
    return result
