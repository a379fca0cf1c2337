"""A convolution and the gradient of what may move, by the convolutions of PyTorch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hat_kernels.gradient_memory import complete, take


class _Shape(NamedTuple):
    stride: list[int]
    padding: list[int]
    dilation: list[int]

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        return torch.convolution(x, weight, bias, *self, False, [0] * len(self.stride), groups)

    def backward(
        self, dz: Tensor, x: Tensor, weight: Tensor, groups: int, wanted: list[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of x, the weight and the bias that are wanted."""
        found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
            dz, x, weight, [len(weight)], *self, False, [0] * len(self.stride), groups, wanted
        )
        return found


class _LockedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, shape: _Shape, groups: int, frozen: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape, ctx.groups, ctx.frozen = shape, groups, frozen
        return shape.forward(x, weight, bias, groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dx, _, db = ctx.shape.backward(dz, x, weight, ctx.groups, [needs_x, False, needs_bias])
        dw = weight_gradient(dz, x, weight, ctx.shape, ctx.groups, ctx.frozen) if needs_weight else None
        if db is not None:
            db[: ctx.frozen[0]] = 0
        return dx, dw, db, None, None, None


def weight_gradient(
    dz: Tensor, x: Tensor, weight: Tensor, shape: _Shape, groups: int, frozen: tuple[int, int]
) -> Tensor:
    """The gradient of the weight, but 0 where the frozen rows and columns meet."""
    rows, columns = frozen if frozen[1] else (0, 0)
    grad = take(weight, (rows, columns))
    if groups > 1:  # all columns, and the groups behind those that are frozen altogether
        locked = rows * groups // len(weight)
        first, behind = locked * len(weight) // groups, locked * weight.shape[1]
    else:
        locked, first, behind = 0, rows, 0
    if first < len(weight):
        part = shape.backward(dz[:, first:], x[:, behind:], weight[first:], groups - locked, [False, True, False])[1]
        assert part is not None
        grad[rows:] = part[rows - first :]
    if rows and columns < weight.shape[1]:
        part = weight[:rows, columns:]
        beside = shape.backward(dz[:, :rows], x[:, columns:], part, 1, [False, True, False])[1]
        assert beside is not None
        grad[:rows, columns:] = beside
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
    result: Tensor = _LockedConv.apply(x, weight, bias, _Shape(stride, padding, dilation), groups, frozen)
    return result
