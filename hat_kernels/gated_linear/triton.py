"""The gated linear layer as PyTorch operators. For each pass `choice.py` chooses our kernel or the vendor's matmul."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hat_kernels.frozen import free_blocks, saved_tensors
from hat_kernels.gate.form import GateForm
from hat_kernels.gated_activation import rows
from hat_kernels.gated_activation.epilogue import Epilogue
from hat_kernels.gated_activation.layout import Tiled, tiled
from hat_kernels.gated_activation.triton import add_sums
from hat_kernels.gated_linear.backward import backward
from hat_kernels.gated_linear.blocks import MatmulBlock
from hat_kernels.gated_linear.choice import choose
from hat_kernels.gated_linear.forward import forward
from hat_kernels.gated_linear.gradient import gradient
from hat_kernels.gated_linear.matmul import kind

WIDEST = 2**31  # elements of partial sums at most: the kernel that adds them counts in 32 bits


@torch.library.custom_op("hat_kernels::gated_linear", mutates_args=())
def gated_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    embedding: Tensor | None,
    scale: Tensor | None,
    mask: Tensor | None,
    task: Tensor | None,
    s_max: float,
    compensation: str,
    activation: str,
    dropout: float,
    frozen_rows: int,
    frozen_columns: int,
    forced: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """(y, z), see `hat_kernels.gated_linear`: z = x W^T + bias, which the backward pass reads; empty unless `keep`.

    Args:
        seed: [1] int64 if `dropout` is not 0.
        forced: use our kernels even if the vendor is faster or nothing was measured.
        keep: return z, too.
    """
    y, z = _results(x, weight, keep)
    if y.numel():
        gate = GateForm(embedding, scale, mask, task, s_max, compensation)
        epilogue = Epilogue.of(bias, seed, gate, activation, dropout)
        inputs, samples = _matrix(x), _samples(x, task)
        block = _block("forward", inputs, weight, forced)
        y_flat = y.view(len(inputs), len(weight))
        if block is not None:
            forward(inputs, weight, y_flat, z.view_as(y_flat) if keep else None, epilogue, samples, block)
        else:
            z_flat = z.view_as(y_flat) if keep else torch.empty_like(y_flat)
            if bias is None:
                torch.mm(inputs, weight.t(), out=z_flat)
            else:
                torch.addmm(bias.to(inputs.dtype), inputs, weight.t(), out=z_flat)
            rows.forward(_rows(z_flat), y_flat, epilogue._replace(bias=None), samples)
    return y, z


@torch.library.custom_op("hat_kernels::gated_linear_backward", mutates_args=())
def gated_linear_backward(
    dy: Tensor,
    weight: Tensor,
    z: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    embedding: Tensor | None,
    scale: Tensor | None,
    mask: Tensor | None,
    task: Tensor | None,
    s_max: float,
    compensation: str,
    activation: str,
    dropout: float,
    frozen_rows: int,
    forced: bool,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
    needs_embedding: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dx, dz, dbias, dembedding), each empty unless needed; the gradient of the weight needs dz. `z` may be None if no
    result depends on it.
    """
    results = _gradients(dy, weight, bias, embedding, needs_x, needs_weight, needs_bias, needs_embedding)
    if not dy.numel():
        for result in results:
            result.zero_()
        return results
    needs = (needs_x, needs_weight, needs_bias, needs_embedding)
    dx, dz, dbias, dgate = (result if needed else None for result, needed in zip(results, needs, strict=True))
    upstream, samples = _matrix(dy), _samples(dy, task)
    z_flat = None if z is None else z.view(upstream.shape)
    dz = None if dz is None else dz.view(upstream.shape)
    gate = GateForm(embedding, scale, mask, task, s_max, compensation)
    epilogue = Epilogue.of(None, seed, gate, activation, dropout)
    block = _backward_block(upstream, weight, forced) if dx is not None and dx.numel() else None
    if dx is not None and block is not None:
        dx_flat = dx.view(len(upstream), weight.shape[1])
        sums = backward(upstream, z_flat, weight, dx_flat, dz, dbias, dgate, epilogue, samples, frozen_rows, block)
    else:
        if dx is not None and dz is None:
            dz = torch.empty_like(upstream, memory_format=torch.contiguous_format)
        z_rows = None if z_flat is None else _rows(z_flat)
        sums = rows.backward(_rows(upstream), z_rows, dz, dbias, dgate, epilogue, samples)
        if dx is not None and dz is not None:
            torch.mm(dz, weight, out=dx.view(len(upstream), weight.shape[1]))
    if sums.chunks > 1 and (needs_bias or needs_embedding):
        add_sums(sums, epilogue, upstream.shape[1])
    if dbias is not None and block is None and frozen_rows:
        dbias[:frozen_rows].zero_()
    return results


@torch.library.custom_op("hat_kernels::gated_linear_gradient", mutates_args=())
def gated_linear_gradient(dz: Tensor, x: Tensor, frozen_rows: int, frozen_columns: int, forced: bool) -> Tensor:
    """[N, K] `dz^T x` for dz [..., N] and x [..., K], but 0 in the frozen block."""
    dz, x = _matrix(dz), _matrix(x)
    grad = x.new_empty((dz.shape[1], x.shape[1]))
    frozen = (frozen_rows, frozen_columns)
    block = choose("dw", kind(x.dtype), len(x), dz.shape[1], x.shape[1], x.device, forced=forced)
    if grad.numel() and block is not None:
        gradient(dz, x, grad, frozen, None, None, block)
    elif grad.numel():
        grad[:frozen_rows, :frozen_columns] = 0
        for rectangle_rows, rectangle_columns in free_blocks(frozen):
            torch.mm(dz[:, rectangle_rows].t(), x[:, rectangle_columns], out=grad[rectangle_rows, rectangle_columns])
    return grad


class _Moving(torch.autograd.Function):
    """The layer with an `update`, which moves the weight in the backward pass. Under autocast `weight` is not cast."""

    @staticmethod
    def forward(ctx: Any, update: Callable[..., bool], x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
        weight_copy = weight.to(x.dtype)
        y, z = gated_linear(x, weight_copy, *arguments)
        _keep_for_backward(ctx, x, weight_copy, z, arguments)
        ctx.save_for_backward(*ctx.kept, weight)
        del ctx.kept
        ctx.update = update
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, weight = saved_tensors(ctx)
        x, weight_copy, *arguments = tensors
        dx, dz, dw, *grads = _backward_passes(
            ctx, dy, x, weight_copy, arguments, ctx.needs_input_grad[1:], by_update=True
        )
        if ctx.needs_input_grad[2] and not ctx.update(weight, _matrix(dz), _matrix(x)):
            dw = gated_linear_gradient(dz, x, *ctx.frozen, ctx.forced).to(weight.dtype)
        return None, dx, dw, *grads, *[None] * 11


def moving(update: Callable[..., bool], x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
    """y as from the operator. The backward pass calls `update(weight, dz, x)` instead of computing that gradient."""
    result: Tensor = _Moving.apply(update, x, weight, *arguments)
    return result


def _matrix(x: Tensor) -> Tensor:
    """[..., N] as [M, N]."""
    count = x.shape[:-1].numel()  # not -1, which is ambiguous for an empty tensor
    return x.reshape(count, x.shape[-1])


def _samples(x: Tensor, task: Tensor | None) -> int:
    return 1 if task is None else x.shape[0]


def _rows(matrix: Tensor) -> Tiled:
    return tiled(matrix, [0, 1], 1)


def _block(purpose: str, x: Tensor, weight: Tensor, forced: bool) -> MatmulBlock | None:
    units, depth = weight.shape
    return choose(purpose, kind(x.dtype), len(x), units, depth, x.device, forced=forced)


def _backward_block(dy: Tensor, weight: Tensor, forced: bool) -> MatmulBlock | None:
    block = _block("dx", dy, weight, forced)
    return None if block is None or -(-len(dy) // block.m) * dy.shape[1] >= WIDEST else block


def _results(x: Tensor, weight: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-1], weight.shape[0])
    return x.new_empty(shape), x.new_empty(shape if keep else (0,))


def _gradients(
    dy: Tensor, weight: Tensor, bias: Tensor | None, embedding: Tensor | None, *needs: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    needs_x, needs_weight, needs_bias, needs_embedding = needs
    return (
        dy.new_empty((*dy.shape[:-1], weight.shape[1]) if needs_x else (0,)),
        dy.new_empty(dy.shape if needs_weight else (0,)),
        dy.new_empty(weight.shape[:1] if needs_bias else (0,), dtype=dy.dtype if bias is None else bias.dtype),
        dy.new_empty(weight.shape[:1] if needs_embedding else (0,), dtype=torch.float32),
    )


@gated_linear.register_fake
def _(x: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return _results(x, weight, options[-1])


@gated_linear_backward.register_fake
def _(dy: Tensor, weight: Tensor, z: Any, bias: Any, seed: Any, embedding: Any, *options: Any) -> tuple[Tensor, ...]:
    return _gradients(dy, weight, bias, embedding, *options[-4:])


@gated_linear_gradient.register_fake
def _(dz: Tensor, x: Tensor, *options: Any) -> Tensor:
    return x.new_empty((dz.shape[-1], x.shape[-1]))


def _keep_for_backward(ctx: Any, x: Tensor, weight: Tensor, z: Tensor, arguments: tuple[Any, ...]) -> None:
    """Keep what the backward passes need; `ctx.kept` gets the tensors."""
    bias, seed, embedding, scale, mask, task, *ctx.options, frozen_rows, frozen_columns, ctx.forced, keep = arguments
    ctx.kept = (x, weight, z if keep else None, bias, seed, embedding, scale, mask, task)
    ctx.frozen = (frozen_rows, frozen_columns)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, *arguments = inputs
    _keep_for_backward(ctx, x, weight, output[1], tuple(arguments))
    ctx.save_for_backward(*ctx.kept)
    ctx.set_materialize_grads(False)  # else autograd would make a gradient of zeros for z
    del ctx.kept


def _backward_passes(
    ctx: Any, dy: Tensor, x: Tensor, weight: Tensor, saved: list[Any], needs: tuple[bool, ...], *, by_update: bool
) -> list[Any]:
    """[dx, dz, dweight, dbias, dseed, dembedding], None for those not needed; dweight is None `by_update`."""
    needs_x, needs_weight, needs_bias, _, needs_embedding, *_ = needs
    dx, dz, dbias, dembedding = gated_linear_backward(
        dy, weight, *saved, *ctx.options, ctx.frozen[0], ctx.forced, needs_x, needs_weight, needs_bias, needs_embedding
    )
    dw = gated_linear_gradient(dz, x, *ctx.frozen, ctx.forced) if needs_weight and not by_update else None
    return [
        dx if needs_x else None,
        dz,
        dw,
        dbias if needs_bias else None,
        None,
        dembedding if needs_embedding else None,
    ]


def _backward(ctx: Any, dy: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, weight, *saved = ctx.saved_tensors
    dx, _, *grads = _backward_passes(ctx, dy, x, weight, saved, ctx.needs_input_grad, by_update=False)
    return dx, *grads, *[None] * 11


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("gated_linear: differentiable once, got a second backward")


gated_linear.register_autograd(_backward, setup_context=_setup_context)
gated_linear_backward.register_autograd(_refuse)
gated_linear_gradient.register_autograd(_refuse)
