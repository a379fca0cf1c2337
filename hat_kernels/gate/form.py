"""The form of a gate: all that an operation must know about the gate of its units, as one value."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hat_kernels.check import check_device, check_tensors, check_units, got
from hat_kernels.dispatch import free_to_read
from hat_kernels.gate.api import check_embedding, gate


class GateForm(NamedTuple):
    """The gate of N units, in one of three forms; an operation that gets None has no gate.

    - `GateForm(embedding=e, scale=s)`: a task is being learned. The gate is `a = sigmoid(s e)`, see `hat_kernels.gate`.
      Differentiable in `embedding`, once.
    - `GateForm(mask=m)`, m [N]: a finished task. The gate is its committed mask.
    - `GateForm(mask=m, task=t)`, m [T, N], t [B]: a batch that mixes finished tasks. The gate of sample b is `m[t[b]]`.

    Attributes:
        embedding: [N] float32 (float64 for a gradcheck).
        scale: 0-d, same dtype, > 0; 1/s_max to s_max over an epoch. Not differentiable.
        mask: [N] or [T, N], values in [0, 1]; any floating dtype. Where it is 0, the result is exactly 0.
        task: [B] int64 in 0..T-1, B the length of dimension 0 of the activations.
        s_max: the final scale, > 0. Only the gradient of `embedding` depends on it.
        compensation: how that gradient is compensated for the annealing: `"none"`, `"published"` or `"exact"`; see
            `hat_kernels.gate`.
    """

    embedding: Tensor | None = None
    scale: Tensor | None = None
    mask: Tensor | None = None
    task: Tensor | None = None
    s_max: float = 400.0
    compensation: str = "published"

    def values(self) -> Tensor:
        """The gate itself: [N], or [B, N] with a task per sample."""
        if self.embedding is not None and self.scale is not None:
            return gate(self.embedding, self.scale, s_max=self.s_max, compensation=self.compensation)
        assert self.mask is not None
        return self.mask if self.task is None else self.mask[self.task]

    def kernel_arguments(self) -> dict[str, Any]:
        """The arguments of the Triton kernels; `GateForm()` stands for no gate there."""
        kind = "none" if self.mask is None else "mask" if self.task is None else "task"
        return {
            "gate_ptr": self.mask if self.embedding is None else self.embedding,
            "scale_ptr": self.scale,
            "task_ptr": self.task,
            "tasks": 1 if self.mask is None or self.task is None else len(self.mask),
            "GATE": kind if self.embedding is None else "embedding",
        }

    def check(self, x: Tensor, units: int, unit_dim: int = -1) -> None:
        """Validate the form for activations that have the batch size, the dimensions and the device of `x`.

        Args:
            x: the activations, or the tensor that they are computed from.
            units: N.
            unit_dim: the dimension of the activations that holds the units.

        Raises:
            ValueError: a shape or device does not fit; the form has no gate, half a gate or two gates; or a number
                is out of range.
            TypeError: something is not a dense tensor, or its dtype is not as described above.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x: expected a tensor, got {got(x)}")
        if not isinstance(units, int) or isinstance(units, bool):
            raise ValueError(f"units: expected an int, got {got(units)}")
        if not isinstance(unit_dim, int) or isinstance(unit_dim, bool) or not -x.dim() <= unit_dim < x.dim():
            raise ValueError(f"unit_dim: expected a dimension of x {tuple(x.shape)}, got {got(unit_dim)}")
        if (self.embedding is None) != (self.scale is None):
            raise ValueError("embedding, scale: expected both or neither")
        if self.embedding is not None and self.mask is not None:
            raise ValueError("embedding, mask: expected one form of gate, got two")
        if self.task is not None:
            _check_tasks(self.mask, self.task, x, units, unit_dim)
        elif self.mask is not None:
            check_units("mask", self.mask, units, x.device)
        elif self.embedding is not None and self.scale is not None:
            check_units("embedding", self.embedding, units, x.device)
            check_embedding(self.embedding, self.scale, self.s_max, self.compensation)
        else:
            raise ValueError("gate: expected embedding and scale, or a mask, got neither; None is no gate")


def _shape(mask: object) -> str:
    return str(tuple(mask.shape)) if isinstance(mask, Tensor) else got(mask)


def _check_tasks(mask: Tensor | None, task: Tensor, x: Tensor, units: int, unit_dim: int) -> None:
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[1] != units:
        raise ValueError(f"mask: expected shape (T, {units}) beside a task per sample, got {_shape(mask)}")
    check_tensors(mask=mask)
    if not isinstance(task, Tensor):
        raise TypeError(f"task: expected a tensor of int64, got {got(task)}")
    if task.dtype != torch.int64 or task.dim() != 1 or task.shape[0] != x.shape[0]:
        raise ValueError(f"task: expected int64 of shape ({x.shape[0]},), got {task.dtype} {tuple(task.shape)}")
    readable = free_to_read(task) and task.numel() and not torch.compiler.is_compiling()
    if readable and not 0 <= task.min() <= task.max() < mask.shape[0]:
        raise ValueError(f"task: expected 0 to {mask.shape[0] - 1}, got {task.min().item()} to {task.max().item()}")
    if unit_dim % x.dim() == 0:
        raise ValueError("unit_dim: expected not the batch dimension 0 beside a task per sample, got 0")
    check_device("mask", mask, x.device)
    check_device("task", task, x.device)
