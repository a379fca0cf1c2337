"""Stochastic gradient descent inside the matmul of the backward pass: `W -= lr dZ^T X`, and no gradient in memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hat.blocks import Block
from hat.model import HATModel
from hat.optim.bounds import Bounds, Grown
from hat.warnings import NonFiniteWarning
from hat_kernels.locked_linear.reference import gradient_bound


class InBackward:
    """The updates of the weights of linear layers, for `hat.optim.SGD(in_backward=True)`.

    Args:
        model: whose weights move.
        groups: the parameter group of every weight, with its learning rate as of now.
        bounds: of the optimizer's weights.
    """

    def __init__(self, model: HATModel, groups: Mapping[Tensor, dict[str, Any]], bounds: Bounds) -> None:
        self.model, self.groups, self.bounds = model, groups, bounds
        self.moved: set[Tensor] = set()
        self._blocks: Mapping[Tensor, Sequence[Block]] = {}

    @torch.no_grad()
    def update(self, weight: Tensor, dz: Tensor, x: Tensor) -> bool:
        """`W -= lr (dZ^T X + weight_decay W)` on the free blocks; False where a lock needs the gradient after all.

        Args:
            weight: [N, K].
            dz: [M, N].
            x: [M, K].

        Raises:
            RuntimeError: the weight has moved since the last step, a hook waits for its gradient, its group has got a
                momentum meanwhile, or several processes train together.
        """
        if not self.moved:
            self._blocks = self.model.blocks()  # once a step
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
        lr, sign = float(group["lr"]), -1 if group["maximize"] else 1
        keep = 1 - lr * group["weight_decay"]
        before = [self.bounds.of(weight, number) for number in range(len(blocks))]  # before the first of them moves
        grown = []
        for number, block in enumerate(blocks):
            rows, columns = (*block.where, slice(None), slice(None))[:2]
            value, known = weight[rows, columns], before[number]
            value.addmm_(dz[:, rows].t(), x[:, columns], beta=keep, alpha=-sign * lr)
            if block.lock is not None:
                bound = None if known is None else abs(keep) * known + lr * norm
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
            raise RuntimeError("in_backward: expected no momentum, which needs the gradient, got a group that has one")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise RuntimeError("in_backward: expected one process, got a group of several, which share gradients")
        if weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None):
            raise RuntimeError("in_backward: expected weights without hooks, got one that waits for the gradient")
