"""Any torch optimizer made safe: what it may not move, it does not move."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor

import hat_kernels
from hat.layers.updaters import claim
from hat.life.model import HATModel
from hat.network.moving import Blocks, follow
from hat.optim.clip import keep_finite_, tame_
from hat.optim.standins import StandIns, can_stand_in, drop_finished, moved
from hat.units.blocks import Block
from hat.units.change import Changes
from hat.units.locks import frozen_lock
from hat_kernels import Lock


def guard(optimizer: torch.optim.Optimizer, model: HATModel, *, max_norm: float | None = None) -> torch.optim.Optimizer:
    """Make every step of a torch optimizer respect the locks of a model.

    Before a step, or after the closure of a step that has one, locked gradients are removed, inf and NaN become 0, and
    the rest is clipped; after the step each update is multiplied by its rate, so that momentum, moments kept from
    earlier tasks and weight decay cannot move a locked weight, and the embeddings are clamped. Holds for all later
    tasks: guard an optimizer once.

    What is locked as a block is not even shown to an optimizer that treats every element by itself (all of
    `torch.optim` but LBFGS, Adafactor, Muon and fused ones), see `hat.optim.standins`: it does no work for it and keeps
    no state. Others step first, and the locked elements get their bits back.

    Embeddings are not decayed, it would pull every gate towards one half: they move into a group of their own, at the
    end, where theirs has weight decay. Make learning-rate schedulers after the guard.

    Args:
        optimizer: made over any of the model's parameters, and others if need be, which it leaves alone.
        model: whose locks count.
        max_norm: clip the global norm of the locked gradients to this, > 0; the paper's code has 10 000. Done here
            because a clip outside of the step would count the gradients of locked weights.

    Returns:
        The same optimizer, with two hooks. A `copy.deepcopy` of it guards the copy of the model.

    Raises:
        ValueError: no parameter of the optimizer belongs to the model, it is guarded already, or `max_norm` is not
            positive.
        TypeError: the optimizer is one of `hat.optim`, which need no guard.
    """
    if getattr(optimizer, "locks_itself", False):
        raise TypeError(f"optimizer: {type(optimizer).__name__} of hat.optim locks by itself, no guard needed")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm: expected > 0, got {max_norm}")
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for p in _parameters(optimizer)):
        raise ValueError("optimizer: expected parameters of the model, got none")
    if hasattr(optimizer, "_guarded"):
        raise ValueError("optimizer: expected one without a guard, got a guarded one; a fractional rate counts once")
    hooks = _Guard(optimizer, model, max_norm)
    optimizer._guarded = hooks  # type: ignore[attr-defined]
    claim(_parameters(optimizer), None)
    _part_embeddings(optimizer, model)
    optimizer.register_step_pre_hook(hooks.before_step)
    optimizer.register_step_post_hook(hooks.after_step)
    # torch copies no hooks along: the copy would forget.
    optimizer.__deepcopy__ = partial(_copy, optimizer, model, max_norm)  # type: ignore[attr-defined]
    return optimizer


def locker_of(optimizer: Any) -> Any:
    """What holds an optimizer to the locks of a model: itself if it is of `hat.optim`, or its guard; None if nothing.

    It has the `model`, the `max_norm` of its clipping, and `abandon`.
    """
    return optimizer if getattr(optimizer, "locks_itself", False) else getattr(optimizer, "_guarded", None)


class _Guard:
    def __init__(self, optimizer: torch.optim.Optimizer, model: HATModel, max_norm: float | None) -> None:
        self.optimizer, self.model, self.max_norm = ref(optimizer), model, max_norm
        self.before: list[tuple[Tensor, Tensor, Lock]] = []
        self.shared: list[tuple[Tensor, Lock | None]] = []
        self.stand_ins: StandIns | None = None
        follow(model, self)

    @torch.no_grad()
    def before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._leave()  # after a step that an error cut short
        locks = self._enter(optimizer)
        self.before = [(p, p.detach().clone(), lock) for p, lock in locks.items() if lock is not None]
        self.shared = list(locks.items())
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            with self._leaving():
                self._tame(optimizer, locks)
            return None

        def tamed() -> Any:
            with self._leaving():
                with nullcontext() if self.stand_ins is None else self.stand_ins.away():
                    loss = closure()
                self._tame(optimizer, locks)
            return loss

        return args[:1], {**kwargs, "closure": tamed}

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        shared = self.shared
        self._leave()
        keep_finite_(shared)
        limit = self.model.config.limit
        for embedding in self.model.embeddings:
            embedding.clamp_(-limit, limit)

    def follow(self, changes: Changes, before: Blocks, after: Blocks, like: Mapping[Tensor, Tensor]) -> None:
        """See `hat.network.moving.Follower`."""
        self._leave()
        optimizer = self.optimizer()
        if optimizer is not None:
            if can_stand_in(optimizer):
                drop_finished(optimizer, self.model.frozen_parameters())
            moved(optimizer, changes, before, after, like)

    def forget(self, gone: Sequence[Tensor]) -> None:
        """See `hat.network.moving.Follower`: the next step starts anew."""
        self._leave()
        optimizer = self.optimizer()
        if optimizer is not None:
            if can_stand_in(optimizer):
                drop_finished(optimizer, gone)
            optimizer.state.clear()

    def abandon(self) -> None:
        """Leave a step that a graph has recorded in part and that has not run: there is nothing to bring back."""
        self.before = []
        self._leave()

    def _enter(self, optimizer: torch.optim.Optimizer) -> dict[Tensor, Lock | None]:
        """The locks of what finished tasks meet, whole or in parts as the optimizer sees it from now on."""
        parameters = _parameters(optimizer)  # a look at all that the model has would grow with the number of tasks
        if not can_stand_in(optimizer):
            frozen = [p for p in parameters if not p.requires_grad]
            locks = self.model.locks()
            found: dict[Tensor, Lock | None] = {p: lock for p in parameters if (lock := locks.get(p)) is not None}
            # Those too that have no gradient: LBFGS moves them by its history.
            return found | {p: frozen_lock(p) for p in frozen}
        known = self.model.blocks()
        blocks = {p: known[p] for p in parameters if p in known and known[p] != [Block()]}
        packed = {p for p, state in optimizer.state.items() if any(isinstance(value, list) for value in state.values())}
        blocks |= {p: known.get(p, [Block()]) for p in packed}  # of a later stage of the model than this: refused
        # One of a model's heads, frozen before the optimizer was made.
        frozen = [p for p in parameters if not p.requires_grad and p not in known and p not in optimizer.state]
        self.stand_ins = StandIns(optimizer, {**blocks, **dict.fromkeys(frozen, ())})
        return {
            part: None if block.free else block.lock
            for p, found in blocks.items()
            for part, block in zip(self.stand_ins.parts[p], found, strict=True)
        }

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        """An error in the block puts everything back before it goes on."""
        try:
            yield
        except BaseException:
            self._leave()
            raise

    @torch.no_grad()
    def _leave(self) -> None:
        for values, before, lock in self.before:  # left by an error between the step and its hook
            hat_kernels.lock_update_(values, before, lock)
        if self.stand_ins is not None:
            self.stand_ins.leave()
        self.stand_ins, self.before, self.shared = None, [], []

    @torch.no_grad()
    def _tame(self, optimizer: torch.optim.Optimizer, locks: dict[Tensor, Lock | None]) -> None:
        own = {id(p) for p in self.model.body.parameters()} | {id(p) for p in locks}
        own |= {id(p) for p in self.model.head.parameters()} if self.model.learning else set()
        grads = [(p.grad, locks.get(p)) for p in _parameters(optimizer) if p.grad is not None and id(p) in own]
        for grad, lock in grads:
            if lock is not None:
                _drop_locked_(grad, lock)
        factor = tame_([g for g, _ in grads], [lock for _, lock in grads], self.max_norm).factor
        if factor is not None:
            for grad, _ in grads:
                grad.mul_(factor)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _part_embeddings(optimizer: torch.optim.Optimizer, model: HATModel) -> None:
    """Give the embeddings a group without weight decay."""
    embeddings = {id(e) for e in model.embeddings}
    for group in list(optimizer.param_groups):
        apart = [p for p in group["params"] if id(p) in embeddings]
        if apart and group.get("weight_decay"):
            group["params"] = [p for p in group["params"] if id(p) not in embeddings]
            optimizer.add_param_group({**group, "params": apart, "weight_decay": 0.0})


def _copy(
    optimizer: torch.optim.Optimizer, model: HATModel, max_norm: float | None, memo: dict[int, Any]
) -> torch.optim.Optimizer:
    """A copy that guards the copy of the model, the one that `memo` holds if both are copied together."""
    copied = type(optimizer).__new__(type(optimizer))
    memo[id(optimizer)] = copied
    copied.__setstate__(copy.deepcopy(optimizer.__getstate__(), memo))
    return guard(copied, copy.deepcopy(model, memo), max_norm=max_norm)


def _drop_locked_(grad: Tensor, lock: Lock) -> None:
    """Zero the gradient where nothing may move; a fractional rate is left to the update, which it must scale once."""
    movable = lock._replace(
        rows=None if lock.rows is None else (lock.rows > 0).to(lock.rows.dtype),
        columns=None if lock.columns is None else (lock.columns > 0).to(lock.columns.dtype),
    )
    hat_kernels.lock_gradient_(grad, movable)
