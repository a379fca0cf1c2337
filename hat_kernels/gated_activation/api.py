"""Bias, activation, dropout and gate in one operation."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.activation import check_activation
from hat_kernels.dispatch import free_to_read, use_specification, use_triton
from hat_kernels.dropout.api import check_probability
from hat_kernels.gate.api import GATE_FLOOR, check_embedding, gate
from hat_kernels.gated_activation import cpu, reference


def gated_activation(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
    embedding: Tensor | None = None,
    scale: Tensor | None = None,
    mask: Tensor | None = None,
    task: Tensor | None = None,
    s_max: float = 400.0,
    compensation: str = "published",
    unit_dim: int = -1,
    overwrite: bool = False,
) -> Tensor:
    """`dropout(activation(x + bias)) * gate` along one axis of units, Serrà et al. 2018, eq. 1.

    The gate comes in one of three forms, or not at all:

    - `embedding`, `scale`: while a task is learned, `a = sigmoid(scale * embedding)`; see `hat_kernels.gate`
    - `mask` [N]: the committed gate of a finished task
    - `mask` [T, N] with `task` [B]: sample b of the batch takes the gate `mask[task[b]]`

    Differentiable in `x`, `bias` and `embedding`, with `embedding` once. Where a mask is 0 the result is exactly 0,
    whatever `x` holds, inf and NaN included.

    Args:
        x: [..., N], or [B, N, ...] with `unit_dim=1`; floating; computed in float32 at least.
        bias: [N].
        activation: a key of `hat_kernels.ACTIVATIONS`.
        dropout: probability in [0, 1) of dropping an activation; pass 0 to evaluate.
        embedding: [N] float32.
        scale: 0-d float32, > 0.
        mask: [N] or [T, N], values in [0, 1].
        task: [B] int64 in 0..T-1, B the length of dimension 0 of `x`.
        s_max: the final scale, > 0.
        compensation: `"none"`, `"published"` or `"exact"`.
        unit_dim: the dimension of `x` that holds the units, not 0 with `task`.
        overwrite: nobody else needs what `x` holds, not even the backward pass of what made it: its memory may be used.

    Returns:
        Same shape and dtype as `x`; `x` itself where there is nothing to do.

    Raises:
        ValueError: a shape or device that does not fit `x`, half a gate form, two of them, or an argument out of range.
        TypeError: a dtype out of the ones above.
    """
    units = _check_x(x, unit_dim)
    _check_units("bias", bias, x, units)
    check_epilogue(x, units, activation, dropout, embedding, scale, mask, task, s_max, compensation, unit_dim)
    if activation == "identity" and bias is None and not dropout and embedding is None and mask is None:
        return x
    if use_triton("gated_activation", x, bias, embedding, scale, mask):
        from hat_kernels.gated_activation import triton as kernels  # here: a machine without a GPU needs no Triton

        mask = mask if mask is None else mask.to(torch.float32)
        seed = torch.randint(2**63 - 1, (1,), device=x.device) if dropout else None
        return kernels.gated_activation(
            x, bias, embedding, scale, mask, task, seed, activation, dropout, s_max, compensation, unit_dim
        )
    learned = None
    if embedding is not None and scale is not None:
        if cpu.takes(x, bias, activation, embedding) and not use_specification():
            return cpu.gated_relu(
                x,
                dropout=dropout,
                embedding=embedding,
                scale=scale,
                s_max=s_max,
                compensation=compensation,
                floor=GATE_FLOOR,
                unit_dim=unit_dim,
                overwrite=overwrite,
            )
        learned = gate(embedding, scale, s_max=s_max, compensation=compensation)
    elif mask is None and cpu.takes_plain(x, bias, activation) and not use_specification():
        return cpu.plain_relu(x, dropout, overwrite)
    elif mask is not None and cpu.takes_mask(x, bias) and not use_specification():
        return cpu.masked(
            x,
            activation=activation,
            dropout=dropout,
            mask=mask,
            task=task,
            unit_dim=unit_dim,
            overwrite=overwrite,
        )
    return reference.gated_activation(
        x, bias, activation=activation, dropout=dropout, gate=learned, mask=mask, task=task, unit_dim=unit_dim
    )


def check_epilogue(
    x: Tensor,
    units: int,
    activation: str,
    dropout: float,
    embedding: Tensor | None,
    scale: Tensor | None,
    mask: Tensor | None,
    task: Tensor | None,
    s_max: float,
    compensation: str,
    unit_dim: int = -1,
) -> None:
    """Validate the arguments of an epilogue for a result of the batch size, dimensions and device of `x`.

    Raises:
        ValueError, TypeError: as `gated_activation`.
    """
    check_activation(activation)
    check_probability(dropout, "dropout")
    _check_form(x, units, embedding, scale, mask, task, unit_dim)
    if embedding is not None and scale is not None:
        check_embedding(embedding, scale, s_max, compensation)


def _check_x(x: Tensor, unit_dim: int) -> int:
    if not x.is_floating_point():
        raise TypeError(f"x: expected a floating dtype, got {x.dtype}")
    if not -x.dim() <= unit_dim < x.dim():
        raise ValueError(f"unit_dim: expected a dimension of x {tuple(x.shape)}, got {unit_dim}")
    return x.shape[unit_dim]


def _check_units(name: str, value: Tensor | None, x: Tensor, units: int) -> None:
    if value is None:
        return
    if value.dim() != 1 or value.shape[0] != units:
        raise ValueError(f"{name}: expected shape ({units},), got {tuple(value.shape)}")
    _check_device(name, value, x)


def _check_device(name: str, value: Tensor, x: Tensor) -> None:
    if value.device != x.device:
        raise ValueError(f"{name}: expected device {x.device}, got {value.device}")


def _check_form(
    x: Tensor,
    units: int,
    embedding: Tensor | None,
    scale: Tensor | None,
    mask: Tensor | None,
    task: Tensor | None,
    unit_dim: int,
) -> None:
    if (embedding is None) != (scale is None):
        raise ValueError("embedding, scale: expected both or neither")
    if embedding is not None and mask is not None:
        raise ValueError("embedding, mask: expected one form of gate, got two")
    _check_units("embedding", embedding, x, units)
    if task is None:
        _check_units("mask", mask, x, units)
        return
    if mask is None or mask.dim() != 2 or mask.shape[1] != units:
        got = None if mask is None else tuple(mask.shape)
        raise ValueError(f"mask: expected shape (T, {units}) beside a task per sample, got {got}")
    if task.dtype != torch.int64 or task.dim() != 1 or task.shape[0] != x.shape[0]:
        raise ValueError(f"task: expected int64 of shape ({x.shape[0]},), got {task.dtype} {tuple(task.shape)}")
    readable = free_to_read(task) and task.numel() and not torch.compiler.is_compiling()
    if readable and not 0 <= task.min() <= task.max() < mask.shape[0]:
        raise ValueError(f"task: expected 0 to {mask.shape[0] - 1}, got {task.min().item()} to {task.max().item()}")
    if unit_dim % x.dim() == 0:
        raise ValueError("unit_dim: expected not the batch dimension 0 beside a task per sample, got 0")
    _check_device("mask", mask, x)
    _check_device("task", task, x)
