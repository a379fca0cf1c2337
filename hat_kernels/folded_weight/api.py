"""A gate folded into the weights that feed it."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.dispatch import use_triton
from hat_kernels.folded_weight import reference
from hat_kernels.gate.api import GATE_FLOOR, check_embedding


def folded_weight(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    embedding: Tensor,
    scale: Tensor,
    s_max: float = 400.0,
    compensation: str = "published",
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`(a W, a b)`, row i times the gate `a_i = max(sigmoid(scale * e_i), GATE_FLOOR)`, cast in the same pass.

    As `relu(W x + b) * a = relu((a W) x + a b)` for a > 0, a layer of these gates its units without a pass over its
    activations, through whatever commutes with a positive factor: ReLU, leaky ReLU, a pool, dropout. The gradient of
    the gate is read off that of the folded weight: `da_i = sum_j dW'_ij W_ij + db'_i b_i`, and becomes that of the
    embedding as in `hat_kernels.gate`. Differentiable in `weight`, `bias` and `embedding`, once.

    The floor is a clamp here, where `hat_kernels.gate` snaps to 0. A gate of 0 would fold into a unit whose input is 0,
    which has no derivative, and its embedding would get no gradient, where both compensations have one; a unit that
    leaks 2^-32 of itself lies as far under the rounding of the others as one that is 0. The gradients of `weight` and
    `bias` are 0 there all the same, as they are without folding: optimizers like Adam magnify a small one.

    Args:
        weight: [N, ...] of 1 to 5 dimensions, any strides; floating; multiplied in float32 at least.
        bias: [N].
        embedding: [N] float32 (float64 for a gradcheck).
        scale: 0-d, same dtype, > 0. Not differentiable.
        s_max: the final scale, > 0.
        compensation: `"none"`, `"published"` or `"exact"`.
        dtype: of the results, by default the weight's. Not float16, in which 2^-32 is 0.

    Returns:
        The folded weight and bias, of `dtype`, as `weight` in memory where that is dense; None for no bias.

    Raises:
        TypeError: a tensor or `dtype` is of another dtype than the ones above.
        ValueError: a shape or device that does not fit `weight`, or an argument out of range.
    """
    if not weight.is_floating_point():
        raise TypeError(f"weight: expected a floating dtype, got {weight.dtype}")
    if not 1 <= weight.dim() <= 5:
        raise ValueError(f"weight: expected 1 to 5 dimensions, got {tuple(weight.shape)}")
    dtype = weight.dtype if dtype is None else dtype
    if dtype not in DTYPES:
        raise TypeError(f"dtype: expected float32, bfloat16 or float64, got {dtype}")
    check_embedding(embedding, scale, s_max, compensation)
    for name, units in (("bias", bias), ("embedding", embedding)):
        if units is None:
            continue
        if units.shape != weight.shape[:1]:
            raise ValueError(f"{name}: expected shape ({weight.shape[0]},), got {tuple(units.shape)}")
        if units.device != weight.device:
            raise ValueError(f"{name}: expected device {weight.device}, got {units.device}")
    if bias is not None and not bias.is_floating_point():
        raise TypeError(f"bias: expected a floating dtype, got {bias.dtype}")
    if use_triton("folded_weight", weight, bias, embedding, scale) and dtype != torch.float64:
        from hat_kernels.folded_weight import triton as kernels  # here: a machine without a GPU needs no Triton

        return kernels.folded_weight(weight, bias, embedding, scale, s_max, compensation, dtype)
    return reference.folded_weight(weight, bias, embedding, scale, s_max, compensation, dtype, GATE_FLOOR)


DTYPES = (torch.float32, torch.bfloat16, torch.float64)  # 2^-32 is 0 in float16
