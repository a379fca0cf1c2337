"""Stochastic gradient descent under the lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

import hat_kernels
from hat.clip import keep_finite_, tame_
from hat.model import HATModel
from hat_kernels import Lock


class SGD(torch.optim.Optimizer):
    """SGD whose updates are locked after momentum and weight decay, and which clamps the embeddings.

    The step of `torch.optim.SGD` with `W -= lr * rate * d`, see `hat_kernels.sgd_update_`. Embeddings do not decay.

    Args:
        params: `model.task_parameters()`, or any parameters or groups of one model if `model` is given.
        lr: learning rate, >= 0, a number or a 0-d tensor; the paper's is 0.05.
        momentum, dampening, weight_decay, nesterov, maximize: as of `torch.optim.SGD`.
        max_norm: clip the global norm of the locked gradients to this, > 0, or None; the paper's code has 10 000.
        model: whose locks count; by default the one that `params` comes from.

    Raises:
        ValueError: an option out of range, or parameters of no model.
    """

    locks_itself = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.05,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        max_norm: float | None = None,
        model: HATModel | None = None,
    ) -> None:
        model = getattr(params, "model", None) if model is None else model
        if not isinstance(model, HATModel):
            raise ValueError("params: expected model.task_parameters(), or model=..., got parameters of no HATModel")
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name}: expected >= 0, got {value}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov: expected momentum > 0 and dampening 0, got neither or one")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm: expected > 0, got {max_norm}")
        self._model, self._max_norm = model, max_norm
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure` returned, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        locks = self._model.locks()
        factor = self._tame(locks)
        embeddings = {id(embedding) for embedding in self._model.embeddings}
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None and p.requires_grad]
            self._update([p for p in moving if id(p) not in embeddings], group, factor, locks)
            self._update([p for p in moving if id(p) in embeddings], group, factor, None)
        keep_finite_({parameter: lock for parameter, lock in locks.items() if lock is not None})
        return loss

    def _tame(self, locks: dict[Tensor, Lock | None]) -> Tensor | None:
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        return tame_([p.grad for p in parameters], [locks.get(p) for p in parameters], self._max_norm)

    def _update(
        self,
        parameters: list[Tensor],
        group: dict[str, Any],
        factor: Tensor | None,
        locks: dict[Tensor, Lock | None] | None,
    ) -> None:
        """One call of the operation for parameters with momentum, one for those without any yet."""
        new = [p for p in parameters if group["momentum"] and "momentum_buffer" not in self.state[p]]
        for p in new:
            self.state[p]["momentum_buffer"] = torch.empty_like(p, memory_format=torch.preserve_format)
        fresh = {id(p) for p in new}
        for batch, is_first_step in ((new, True), ([p for p in parameters if id(p) not in fresh], False)):
            if not batch:
                continue
            options = {name: group[name] for name in ("lr", "momentum", "dampening", "nesterov", "maximize")}
            options |= {"grad_scale": factor, "is_first_step": is_first_step}
            grads = [p.grad for p in batch if p.grad is not None]
            buffers = [self.state[p]["momentum_buffer"] for p in batch] if group["momentum"] else []
            if locks is None:
                limit = self._model.config.limit
                hat_kernels.embedding_update_(batch, grads, buffers, limit=limit, **options)
            else:
                lock = [locks.get(p) for p in batch]
                hat_kernels.sgd_update_(batch, grads, buffers, lock, weight_decay=group["weight_decay"], **options)
