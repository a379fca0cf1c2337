"""Any torch optimizer made safe: what it may not move, it does not move."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import hat_kernels
from hat.clip import keep_finite_, tame_
from hat.model import HATModel
from hat_kernels import Lock


def guard(optimizer: torch.optim.Optimizer, model: HATModel, *, max_norm: float | None = None) -> torch.optim.Optimizer:
    """Make every step of a torch optimizer respect the locks of a model.

    Before a step, locked gradients are removed, inf and NaN become 0, and the rest is clipped; after it, each update is
    multiplied by its rate, so that momentum, moments kept from earlier tasks and weight decay cannot move a locked
    weight, and the embeddings are clamped. Holds for all later tasks: guard an optimizer once.

    Args:
        optimizer: made over any of the model's parameters, and others if need be, which it leaves alone.
        model: whose locks count.
        max_norm: clip the global norm of the locked gradients to this, > 0; the paper's code has 10 000. Done here
            because a clip outside of the step would count the gradients of locked weights.

    Returns:
        The same optimizer, with two hooks.

    Raises:
        ValueError: no parameter of the optimizer belongs to the model, or `max_norm` is not positive.
        TypeError: the optimizer is one of `hat.optim`, which need no guard.
    """
    if getattr(optimizer, "locks_itself", False):
        raise TypeError(f"optimizer: {type(optimizer).__name__} of hat.optim locks by itself, no guard needed")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm: expected > 0, got {max_norm}")
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for p in _parameters(optimizer)):
        raise ValueError("optimizer: expected parameters of the model, got none")
    hooks = _Guard(model, max_norm)
    optimizer.register_step_pre_hook(hooks.before_step)
    optimizer.register_step_post_hook(hooks.after_step)
    return optimizer


class _Guard:
    def __init__(self, model: HATModel, max_norm: float | None) -> None:
        self.model, self.max_norm = model, max_norm
        self.before: list[tuple[Tensor, Tensor, Lock]] = []

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        locked = self.model.active_locks()
        parameters = _parameters(optimizer)
        for parameter in parameters:
            if parameter.grad is not None and parameter in locked:
                _drop_locked_(parameter.grad, locked[parameter])
        _clip_(self.model, locked, parameters, self.max_norm)
        self.before = [(p, p.detach().clone(), locked[p]) for p in parameters if p in locked]

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter, before, lock in self.before:
            hat_kernels.lock_update_(parameter, before, lock)
        keep_finite_(parameter for parameter, _, _ in self.before)
        self.before = []
        limit = self.model.config.limit
        for embedding in self.model.embeddings:
            embedding.clamp_(-limit, limit)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _drop_locked_(grad: Tensor, lock: Lock) -> None:
    """Zero the gradient where nothing may move; a fractional rate is left to the update, which it must scale once."""
    movable = lock._replace(
        rows=None if lock.rows is None else (lock.rows > 0).to(lock.rows.dtype),
        columns=None if lock.columns is None else (lock.columns > 0).to(lock.columns.dtype),
    )
    hat_kernels.lock_gradient_(grad, movable)


def _clip_(model: HATModel, locked: dict[Tensor, Lock], parameters: list[Tensor], max_norm: float | None) -> None:
    own = {id(p) for p in model.parameters()}
    grads = [(p.grad, locked.get(p)) for p in parameters if p.grad is not None and id(p) in own]
    factor = tame_([g for g, _ in grads], [lock for _, lock in grads], max_norm)
    if factor is not None:
        for grad, _ in grads:
            grad.mul_(factor)
