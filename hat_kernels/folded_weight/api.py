"""A gate folded into the weight of the layer before it."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.check import check_tensors, check_units, got
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
    """`(a W, a b)`: row i of the weight and the bias times the gate `a_i = max(sigmoid(s e_i), GATE_FLOOR)`.

    For a > 0, `relu(W x + b) * a = relu((a W) x + a b)`. A layer with the folded weight has gated units, and needs no
    pass over its activations for the gate. The same holds for leaky ReLU, pools and dropout, which all commute with a
    positive factor. The result is cast to `dtype` in the same pass.

    The gradient of the gate follows from the gradients dW' and db' of the folded weight and bias:
    `da_i = sum_j dW'_ij W_ij + db'_i b_i`. From it the gradient of the embedding is computed as in `hat_kernels.gate`.
    Differentiable in `weight`, `bias` and `gate.embedding`, once.

    A gate below the floor is set to the floor here, but to 0 in `hat_kernels.gate`. With a gate of 0, the input of the
    ReLU would be 0, where ReLU has no derivative, and the embedding would get no gradient. It must get one with both
    compensations. A unit with a gate of 2^-32 changes the sums of the next layer less than rounding does.
    The gradients of `weight` and `bias` are 0 for a gate below the floor, as without folding. Otherwise optimizers like
    Adam would make large steps from very small gradients.

    Args:
        weight: [N, ...] of 1 to 5 dimensions, any strides; floating. The product is computed in float32 or wider.
        bias: [N].
        gate: the gate of the N units, with an embedding and a scale.
        dtype: the dtype of the results, by default that of the weight. Not float16, in which 2^-32 is 0.

    Returns:
        The folded weight and bias, of `dtype` (None without a bias). Their memory order is that of a dense `weight`.

    Raises:
        TypeError: a dtype is not one of those described above, or `gate` is not a `GateForm`.
        ValueError: a shape or device does not fit `weight`, `gate` is a mask, or as `GateForm.check`.
    """
    check_tensors(weight=weight)
    if not 1 <= weight.dim() <= 5:
        raise ValueError(f"weight: expected 1 to 5 dimensions, got {tuple(weight.shape)}")
    dtype = weight.dtype if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise TypeError(f"dtype: expected float32, bfloat16 or float64, got {got(dtype)}")
    if not isinstance(gate, GateForm):
        raise TypeError(f"gate: expected a GateForm, got {type(gate).__name__}")
    if gate.mask is not None:
        raise ValueError("gate: expected embedding and scale, got a mask")
    gate.check(weight, len(weight), 0)
    if bias is not None:
        check_units("bias", bias, len(weight), weight.device)
    if use_triton("folded_weight", weight, bias, gate.embedding, gate.scale) and dtype != torch.float64:
        from hat_kernels.folded_weight import triton as kernels  # here: a machine without a GPU needs no Triton

        return kernels.folded_weight(weight, bias, gate, dtype)
    return reference.folded_weight(weight, bias, gate, dtype, GATE_FLOOR)


DTYPES = (torch.float32, torch.bfloat16, torch.float64)  # 2^-32 is 0 in float16
