"""A linear layer, and the gradient of the weights that may move, in pure PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hat_kernels.frozen import free_blocks, saved_tensors
from hat_kernels.gradient_memory import complete, take


class _LockedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        frozen: tuple[int, int],
        update: Callable[..., bool] | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.frozen, ctx.update = frozen, update
        return F.linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = saved_tensors(ctx)
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = dz @ weight
        count = dz.shape[:-1].numel()  # not -1, which is ambiguous for an empty tensor
        dz, x = dz.reshape(count, dz.shape[-1]), x.reshape(count, x.shape[-1])
        if ctx.needs_input_grad[1]:  # after dx, which needs the weight before it moves
            updated = ctx.update is not None and ctx.update(weight, dz, x)
            dw = None if updated else weight_gradient(weight, dz, x, ctx.frozen)
        if ctx.needs_input_grad[2]:
            db = dz.sum(0)
            db[: ctx.frozen[0]] = 0
        return dx, dw, db, None, None


_ROUNDING = 1.01  # more than the rounding of a bfloat16 gradient and of the norms


def weight_gradient(weight: Tensor, dz: Tensor, x: Tensor, frozen: tuple[int, int]) -> Tensor:
    """`dz^T x` [N, K], but 0 in the frozen block of the weight."""
    grad = take(weight, frozen)
    for rows, columns in free_blocks(frozen):
        a, b, block = dz[:, rows].t(), x[:, columns], grad[rows, columns]
        if torch.compiler.is_compiling():  # Dynamo refuses an `out` that is not contiguous
            block.copy_(a @ b)
        else:
            torch.mm(a, b, out=block)
    complete(weight, grad, partial(gradient_bound, dz, x))
    return grad


def gradient_bound(dz: Tensor, x: Tensor) -> Tensor:
    """0-d, no less than the norm of `dz^T x`, by Cauchy and Schwarz. It is finite only if dz and x are."""
    wide = torch.promote_types(dz.dtype, torch.float32)
    return _ROUNDING * torch.linalg.vector_norm(dz, dtype=wide) * torch.linalg.vector_norm(x, dtype=wide)


def locked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    frozen: tuple[int, int],
    update: Callable[..., bool] | None,
) -> Tensor:
    """See `hat_kernels.locked_linear`."""
    result: Tensor = _LockedLinear.apply(x, weight, bias, frozen, update)
    return result
