"""The gate of hard attention, for one axis of units."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hat_kernels.check import check_choice, check_number, check_tensors
from hat_kernels.dispatch import use_triton
from hat_kernels.gate import reference
from hat_kernels.limits import GATE_FLOOR

COMPENSATIONS = ("none", "published", "exact")


def gate(embedding: Tensor, scale: Tensor, *, s_max: float = 400.0, compensation: str = "published") -> Tensor:
    """The gate `a = sigmoid(s e)` for an embedding e and a scale s; its gradient is compensated for the annealing of s.

    Differentiable in `embedding`, once. With the gradient `da` of the gate and the plain derivative
    `q = da * s a (1 - a)`, the gradient of the embedding is

    - `none`: `q`
    - `published`: `q s_max (cosh(clamp(s e, ±50)) + 1) / (s (cosh(e) + 1))`, Serrà et al. 2018, section 2.5, with the
      clamp of the published code. In float32 it becomes 0 for `s e > 17`, because 1 - a does
    - `exact`: `da s_max sigmoid(e) (1 - sigmoid(e))`, which is the same expression, simplified. It does not saturate or
      overflow

    Args:
        embedding: [N] float32 (float64 for a gradcheck).
        scale: 0-d, same dtype, > 0. Not differentiable.
        s_max: the final scale, > 0.
        compensation: `"none"`, `"published"` or `"exact"`.

    Returns:
        [N] gates in [0, 1]. A gate below `GATE_FLOOR` is set to 0. The floor does not change the gradient.

    Raises:
        TypeError: something is not a dense tensor, `embedding` is not float32 or float64, or `scale` has another dtype.
        ValueError: a shape or a device does not fit, `s_max` is not positive, or `compensation` is not known.
    """
    if not isinstance(embedding, Tensor) or embedding.is_nested or embedding.layout is not torch.strided:
        check_tensors(embedding=embedding)
    check_embedding(embedding, scale, s_max, compensation)
    if use_triton("gate", embedding, scale):
        from hat_kernels.gate import triton as kernels  # here: a machine without a GPU needs no Triton

        return kernels.gate(embedding, scale, s_max, compensation)
    return reference.gate(embedding, scale, s_max, compensation, GATE_FLOOR)


def check_embedding(embedding: Tensor, scale: Tensor, s_max: float, compensation: str) -> None:
    """Check the arguments of a gate that is being learned; `embedding` is known to be a dense floating tensor.

    Raises:
        TypeError, ValueError: as `gate`.
    """
    if not isinstance(scale, Tensor) or scale.is_nested or scale.layout is not torch.strided:
        check_tensors(scale=scale)
    if embedding.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"embedding: expected float32, got {embedding.dtype}")
    if embedding.dim() != 1:
        raise ValueError(f"embedding: expected shape (N,), got {tuple(embedding.shape)}")
    if scale.dtype != embedding.dtype:
        raise TypeError(f"scale: expected {embedding.dtype}, got {scale.dtype}")
    if scale.dim() != 0:
        raise ValueError(f"scale: expected a 0-d tensor, got shape {tuple(scale.shape)}")
    if scale.device != embedding.device:
        raise ValueError(f"scale: expected device {embedding.device}, got {scale.device}")
    if not isinstance(s_max, float) or not 0 < s_max < math.inf:
        check_number("s_max", s_max, above=0)
    if not isinstance(compensation, str) or compensation not in COMPENSATIONS:
        check_choice("compensation", compensation, COMPENSATIONS)
