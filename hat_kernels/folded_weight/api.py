"""A gate folded into the weights that feed it."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.check import check_units
from hat_kernels.dispatch import use_triton
from hat_kernels.folded_weight import reference
from hat_kernels.gate.form import GateForm
from hat_kernels.limits import GATE_FLOOR


def folded_weight(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gate: GateForm,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`(a W, a b)`, row i times the gate `a_i = max(sigmoid(scale * e_i), GATE_FLOOR)`, cast in the same pass.

    As `relu(W x + b) * a = relu((a W) x + a b)` for a > 0, a layer of these gates its units without a pass over its
    activations, through whatever commutes with a positive factor: ReLU, leaky ReLU, a pool, dropout. The gradient of
    the gate is read off that of the folded weight: `da_i = sum_j dW'_ij W_ij + db'_i b_i`, and becomes that of the
    embedding as in `hat_kernels.gate`. Differentiable in `weight`, `bias` and `gate.embedding`, once.

    The floor is a clamp here, where `hat_kernels.gate` snaps to 0. A gate of 0 would fold into a unit whose input is 0,
    which has no derivative, and its embedding would get no gradient, where both compensations have one; a unit that
    leaks 2^-32 of itself lies as far under the rounding of the others as one that is 0. The gradients of `weight` and
    `bias` are 0 there all the same, as they are without folding: optimizers like Adam magnify a small one.

    Args:
        weight: [N, ...] of 1 to 5 dimensions, any strides; floating; multiplied in float32 at least.
        bias: [N].
        gate: of the N units, with an embedding and a scale.
        dtype: of the results, by default the weight's. Not float16, in which 2^-32 is 0.

    Returns:
        The folded weight and bias, of `dtype`, as `weight` in memory where that is dense; None for no bias.

    Raises:
        TypeError: a tensor or `dtype` is of another dtype than the ones above.
        ValueError: a shape or device that does not fit `weight`, `gate` is a mask, or see `GateForm.check`.
    """
    if not weight.is_floating_point():
        raise TypeError(f"weight: expected a floating dtype, got {weight.dtype}")
    if not 1 <= weight.dim() <= 5:
        raise ValueError(f"weight: expected 1 to 5 dimensions, got {tuple(weight.shape)}")
    dtype = weight.dtype if dtype is None else dtype
    if dtype not in DTYPES:
        raise TypeError(f"dtype: expected float32, bfloat16 or float64, got {dtype}")
    if gate.mask is not None:
        raise ValueError("gate: expected embedding and scale, got a mask")
    gate.check(weight, len(weight), 0)
    if bias is not None:
        check_units("bias", bias, len(weight), weight.device)
        if not bias.is_floating_point():
            raise TypeError(f"bias: expected a floating dtype, got {bias.dtype}")
    if use_triton("folded_weight", weight, bias, gate.embedding, gate.scale) and dtype != torch.float64:
        from hat_kernels.folded_weight import triton as kernels  # here: a machine without a GPU needs no Triton

        return kernels.folded_weight(weight, bias, gate, dtype)
    return reference.folded_weight(weight, bias, gate, dtype, GATE_FLOOR)


DTYPES = (torch.float32, torch.bfloat16, torch.float64)  # 2^-32 is 0 in float16
