"""A linear layer with its activation and gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hat_kernels.dispatch import forced, use_triton
from hat_kernels.gated_activation.api import check_epilogue, gated_activation
from hat_kernels.gated_linear import choice, reference
from hat_kernels.gated_linear.reference import linear
from hat_kernels.locked_linear.api import Update, check_frozen


def gated_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    frozen: tuple[int, int] | None = None,
    update: Update | None = None,
    **epilogue: Any,
) -> Tensor:
    """`dropout(activation(x W^T + bias)) * gate`, Serrà et al. 2018, eq. 1.

    Differentiable in `x`, `weight`, `bias` and `embedding`. On a GPU each pass is one kernel, or the vendor's matmul
    beside `hat_kernels.gated_activation` where that was measured to be faster or nothing was, see `choice.py`;
    `backend("triton")` always takes the kernels. They are differentiable once.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].
        frozen: (rows, columns), the leading block of the weight that is locked: its gradient is 0 and costs nothing,
            see `hat_kernels.locked_linear`. None: the gradient is that of `torch.nn.functional.linear`.
        update: takes the place of the weight gradient, see there; with `frozen`.
        epilogue: activation, dropout and gate, as `hat_kernels.gated_activation` takes them (not `unit_dim`).

    Returns:
        [..., N].

    Raises:
        TypeError: `x` and `weight` differ in dtype outside of autocast.
        ValueError: a shape or device that does not fit; see also `hat_kernels.gated_activation`.
        RuntimeError: in the backward pass, `update` has moved a weight that another use of it still needs.
    """
    if weight.dim() != 2:
        raise ValueError(f"weight: expected shape (N, K), got {tuple(weight.shape)}")
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x: expected shape (..., {weight.shape[1]}), got {tuple(x.shape)}")
    if x.device != weight.device:
        raise ValueError(f"x: expected device {weight.device}, got {x.device}")
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"x: expected {weight.dtype} as the weight, got {x.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    gate = [epilogue.get(name) for name in ("embedding", "scale", "mask")]
    if not use_triton("gated_linear", x, weight, bias, *gate):
        return reference.gated_linear(x, weight, bias, frozen, update, **epilogue)
    if forced() or choice.takes(x, weight):
        return _fused(x, weight, bias, frozen or (0, 0), update if frozen is not None else None, **epilogue)
    if epilogue.get("activation") == "identity" and not epilogue.get("dropout") and all(each is None for each in gate):
        return linear(x, weight, bias, frozen, update)
    return gated_activation(linear(x, weight, None, frozen, update), bias, **epilogue)  # the bias rides along


def _fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    frozen: tuple[int, int],
    update: Update | None,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
    embedding: Tensor | None = None,
    scale: Tensor | None = None,
    mask: Tensor | None = None,
    task: Tensor | None = None,
    s_max: float = 400.0,
    compensation: str = "published",
) -> Tensor:
    from hat_kernels.gated_linear import triton as kernels  # here: a machine without a GPU needs no Triton

    check_frozen(frozen, weight)
    check_epilogue(x, weight.shape[0], activation, dropout, embedding, scale, mask, task, s_max, compensation)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    leaves = [leaf for leaf in (x, weight, bias, embedding) if leaf is not None]
    backward = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)
    learned = embedding is not None and embedding.requires_grad
    rest = [
        bias,
        embedding,
        scale,
        mask if mask is None else mask.to(torch.float32),
        task,
        torch.randint(2**63 - 1, (1,), device=x.device) if dropout else None,
        activation,
        dropout,
        s_max,
        compensation,
        *frozen,
        forced(),
        backward and (activation != "identity" or learned),
    ]
    if update is not None and backward and weight.requires_grad and not torch.compiler.is_compiling():
        return kernels.moving(update, x, weight, *rest)
    return kernels.gated_linear(x, weight.to(x.dtype), *rest)[0]
