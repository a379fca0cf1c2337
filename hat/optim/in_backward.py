"""Gradient descent inside the matmul of the backward pass: `W -= lr dZ^T X`, without a gradient in memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import hat_kernels
from hat.life.model import HATModel
from hat.optim.bounds import Bounds, Grown
from hat.units.blocks import Block
from hat.warnings import NonFiniteWarning
from hat_kernels import Lock
from hat_kernels.dispatch import use_triton
from hat_kernels.locked_linear.reference import gradient_bound


class InBackward:
    """Updates the weights of linear layers, for `hat.optim.SGD(in_backward=True)`.

    Args:
        model: the model that learns.
        groups: the parameter group of every weight, with its present learning rate.
        bounds: the bounds of the weights of the optimizer.
    """

    def __init__(self, model: HATModel, groups: Mapping[Tensor, dict[str, Any]], bounds: Bounds) -> None:
        self.model, self.groups, self.bounds = model, groups, bounds
        self.moved: set[Tensor] = set()
        self._blocks: Mapping[Tensor, Sequence[Block]] = {}
        self._locks: Mapping[Tensor, Lock | None] = {}

    @torch.no_grad()
    def update(self, weight: Tensor, dz: Tensor, x: Tensor) -> bool:
        """`W -= lr rate (dZ^T X + weight_decay W)`.

        On a GPU this is one launch under any lock, and the host reads nothing back. On a CPU only blocks that are all
        free can be updated.

        Args:
            weight: [N, K].
            dz: [M, N], in the dtype of the weight; on a GPU under autocast, in a lower dtype.
            x: [M, K], in the dtype of `dz`.

        Returns:
            False if the weight was not updated and needs a gradient: on a CPU, if its blocks are not all free.

        Raises:
            RuntimeError: the weight has already moved since the last step, a hook waits for its gradient, its group now
                has momentum, or several processes train together.
        """
        by_kernel = use_triton("linear_update_", weight, dz, x)
        if not self.moved:  # once a step
            blocks = self.model.blocks()
            if blocks is not self._blocks:
                self._blocks, self._locks = blocks, {}
            if by_kernel and not self._locks:  # once a task, as `locks` walks through the network
                self._locks = self.model.locks()
        if by_kernel:
            self._check(weight)
            self.moved.add(weight)
            options = {name: self.groups[weight][name] for name in ("lr", "weight_decay", "maximize")}
            hat_kernels.linear_update_(weight, dz, x, self._locks[weight], mend=True, **options)
            return True
        return self._update_blocks(weight, dz, x)

    def _update_blocks(self, weight: Tensor, dz: Tensor, x: Tensor) -> bool:
        blocks = self._blocks[weight]
        if weight.device.type != "cpu" or not all(block.free for block in blocks):
            return False
        self._check(weight)
        self.moved.add(weight)
        norm = gradient_bound(dz, x).item()
        if not math.isfinite(norm):
            warnings.warn("a gradient holds inf or NaN, which count as 0: is the loss finite?", NonFiniteWarning, 2)
            return True
        group = self.groups[weight]
        options = {"lr": float(group["lr"]), "weight_decay": group["weight_decay"], "maximize": group["maximize"]}
        keep = 1 - options["lr"] * options["weight_decay"]
        bounds_before = [self.bounds.of(weight, number) for number in range(len(blocks))]  # before any block moves
        grown = []
        for number, block in enumerate(blocks):
            rows, columns = (*block.where, slice(None), slice(None))[:2]
            value, bound_before = weight[rows, columns], bounds_before[number]
            hat_kernels.linear_update_(value, dz[:, rows], x[:, columns], **options)
            if block.lock is not None:
                bound = None if bound_before is None else abs(keep) * bound_before + options["lr"] * norm
                grown.append(Grown(weight, number, value, None, bound))
        self.bounds.keep(grown)
        return True

    def _check(self, weight: Tensor) -> None:
        if weight in self.moved:
            raise RuntimeError(
                "in_backward: expected one backward pass a step, got another: gradient accumulation and a second "
                "backward pass need the gradient, use in_backward=False"
            )
        if self.groups[weight]["momentum"]:
            raise RuntimeError("in_backward: expected no momentum, which needs the gradient, got a group with momentum")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise RuntimeError("in_backward: expected one process, got a group of several, which share gradients")
        if weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None):
            raise RuntimeError("in_backward: expected weights without hooks, got a hook that waits for the gradient")
