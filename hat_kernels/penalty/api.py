"""The capacity penalty of a whole network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hat_kernels.check import check_list, check_one_device, check_parallel
from hat_kernels.dispatch import use_triton
from hat_kernels.gate.api import check_embedding
from hat_kernels.limits import GATE_FLOOR
from hat_kernels.penalty import reference


def penalty(
    embeddings: Sequence[Tensor],
    frees: Sequence[Tensor],
    scale: Tensor,
    *,
    s_max: float = 400.0,
    compensation: str = "published",
) -> Tensor:
    """`R = sum over gates sum_i a_i free_i / sum over gates sum_i free_i`, Serrà et al. 2018, eq. 4 and 5.

    `a = sigmoid(scale * embedding)` is the gate, as in `hat_kernels.gate`. R is one fraction for the whole network, not
    a mean of one fraction for each gate. Differentiable in the embeddings, once, with the compensation of
    `hat_kernels.gate`.

    Args:
        embeddings: one for each gate, [N] float32 (float64 for a gradcheck). N may differ from gate to gate.
        frees: one for each gate, [N] float32, `1 - used` in [0, 1].
        scale: 0-d, of the embeddings' dtype, > 0. Not differentiable.
        s_max: the final scale, > 0.
        compensation: `"none"`, `"published"` or `"exact"`.

    Returns:
        0-d; 0 where no unit is free.

    Raises:
        ValueError: there is no gate; the lists differ in length, shapes or devices; or as `hat_kernels.gate`.
        TypeError: something is not a dense floating tensor, or an embedding is not float32 or float64.
    """
    check_list("embeddings", embeddings)
    if not embeddings:
        raise ValueError("embeddings: expected at least one gate, got none")
    check_parallel("frees", frees, embeddings, "a gate")
    check_one_device(embeddings, "embeddings")
    for embedding in embeddings:
        check_embedding(embedding, scale, s_max, compensation)
    result: Tensor = _Penalty.apply(scale, s_max, compensation, len(embeddings), *embeddings, *frees)
    return result


def _implementation(scale: Tensor, embeddings: Sequence[Tensor]) -> Any:
    """The module that computes. Compiled code gets the reference, which the compiler fuses with the code around it."""
    if not torch.compiler.is_compiling() and use_triton("penalty", scale, *embeddings):
        from hat_kernels.penalty import triton as kernels  # here: a machine without a GPU needs no Triton

        return kernels
    return reference


class _Penalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: Tensor, s_max: float, compensation: str, gates: int, *tensors: Tensor) -> Tensor:
        embeddings, frees = tensors[:gates], tensors[gates:]
        value: Tensor
        value, total = _implementation(scale, embeddings).value(embeddings, frees, scale, GATE_FLOOR)
        ctx.save_for_backward(scale, total, *tensors)
        ctx.options = s_max, compensation
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale, total, *tensors = ctx.saved_tensors
        gates = len(tensors) // 2
        embeddings, frees = tensors[:gates], tensors[gates:]
        compute = _implementation(scale, embeddings).gradients
        return None, None, None, None, *compute(grad, embeddings, frees, total, scale, *ctx.options), *[None] * gates
