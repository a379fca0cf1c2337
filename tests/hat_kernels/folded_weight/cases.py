"""Inputs for the tests of folded weights, and the results and gradients of one implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import hat_kernels
from hat_kernels import GateForm
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.shapes import normal


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, bias: bool = True, folded: torch.dtype | None = None
) -> list[Tensor | None]:
    """(weight, bias, embedding, scale, dfolded, dfolded_bias); the gates are far from 0 and 1."""
    units = shape[:1]
    gates = torch.promote_types(dtype, torch.float32)
    embedding, scale = normal(units, gates, 2).clamp(-3, 3), torch.tensor(1.5, dtype=gates)
    arguments = [normal(shape, dtype), normal(units, dtype, 1) if bias else None, embedding, scale]
    arguments += [normal(shape, folded or dtype, 3), normal(units, folded or dtype, 4)]
    return [None if t is None else t.to(DEVICE) for t in arguments]


def results(
    weight: Tensor,
    bias: Tensor | None,
    embedding: Tensor,
    scale: Tensor,
    dfolded: Tensor,
    dfolded_bias: Tensor,
    *,
    backend: str = "reference",
    dtype: torch.dtype | None = None,
    **options: Any,
) -> list[Tensor]:
    """[folded weight, folded bias, gradients of weight, bias and embedding]; without a bias, two entries less."""
    leaves = [t.detach().requires_grad_() for t in (weight, bias, embedding) if t is not None]
    with hat_kernels.backend(backend):
        folded, folded_bias = hat_kernels.folded_weight(
            leaves[0],
            leaves[1] if bias is not None else None,
            gate=GateForm(embedding=leaves[-1], scale=scale, **options),
            dtype=dtype,
        )
        outputs = [folded] if folded_bias is None else [folded, folded_bias]
        upstream = [dfolded.to(folded.dtype), dfolded_bias.to(folded.dtype)]
        gradients = torch.autograd.grad(outputs, leaves, upstream[: len(outputs)])
    return [output.detach() for output in outputs] + list(gradients)


def formula(
    weight: Tensor,
    bias: Tensor | None,
    embedding: Tensor,
    scale: Tensor,
    dfolded: Tensor,
    dfolded_bias: Tensor,
    compensation: str = "none",
    s_max: float = 400.0,
) -> list[Tensor]:
    """The same as `results`, by the formulas, for gates far above the floor."""
    a = 1 / (1 + torch.exp(-scale * embedding))
    column = [-1] + [1] * (weight.dim() - 1)
    da = (dfolded * weight).reshape(len(a), weight[:1].numel()).sum(1) + (0 if bias is None else dfolded_bias * bias)
    q = da * scale * a * (1 - a)
    if compensation == "published":
        q = q * s_max * (torch.cosh((scale * embedding).clamp(-50, 50)) + 1) / (scale * (torch.cosh(embedding) + 1))
    if compensation == "exact":
        q = da * s_max * torch.sigmoid(embedding) * (1 - torch.sigmoid(embedding))
    if bias is None:
        return [weight * a.view(column), dfolded * a.view(column), q]
    return [weight * a.view(column), bias * a, dfolded * a.view(column), dfolded_bias * a, q]
