"""Guard any torch optimizer, so that it moves no locked weight."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from types import MethodType
from typing import Any, SupportsIndex
from weakref import proxy, ref

import torch
from torch import Tensor

import hat_kernels
from hat.arguments import check_type
from hat.layers.updaters import claim
from hat.life.model import HATModel
from hat.network.interrupt import interrupt_waits
from hat.network.moving import Blocks, follow
from hat.network.sharded import refuse_sharded
from hat.optim.check import check_max_norm, refuse_foreign
from hat.optim.clip import keep_finite_, tame_
from hat.optim.groups import add_group, drop, left_empty
from hat.optim.standins import StandIns, can_stand_in, can_stand_in_whole, moved
from hat.units.blocks import Block
from hat.units.change import Changes
from hat.units.locks import frozen_lock
from hat_kernels import Lock
from hat_kernels.capturing import is_capturing


def guard(optimizer: torch.optim.Optimizer, model: HATModel, *, max_norm: float | None = None) -> torch.optim.Optimizer:
    """Make every step of a torch optimizer respect the locks of a model.

    Before a step (after its closure, if the step has a closure), the guard removes locked gradients, sets inf and NaN
    to 0, and clips. After the step, the guard multiplies each update by its rate and clamps the embeddings. So neither
    momentum, nor moments of earlier tasks, nor weight decay can move a locked weight. The guard holds for all later
    tasks: guard an optimizer once.

    The optimizers in `hat.optim.standins.ELEMENTWISE` treat every element by itself, unless they are fused or
    differentiable. They do not see locked blocks at all: they do no work and keep no state for them. Other optimizers
    of torch move copies of the weights, and the guard writes the free weights back. So threads may serve finished tasks
    during a step, and an error or Ctrl-C may end it. Only LBFGS and optimizers from elsewhere move all weights
    themselves; the guard then restores the locked weights bit by bit, however the step ends.

    Embeddings do not decay, because weight decay would pull every gate towards 1/2. If a group with weight decay holds
    embeddings, they move to a new group at the end. So make learning-rate schedulers after the guard.

    Args:
        optimizer: over any parameters of the model. It may hold other parameters too; the guard ignores them.
        model: its locks count.
        max_norm: clip the global norm of the locked gradients to this, > 0, or None; the paper's code has 10 000. The
            guard clips, because clipping outside of the step would count the gradients of locked weights.

    Returns:
        The same optimizer, with two hooks. A `copy.deepcopy` of the optimizer, and an optimizer that was pickled, guard
        the copy of the model.

    Raises:
        ValueError: no parameter of the optimizer belongs to the model, the optimizer is already guarded, `max_norm` is
            not positive, or the optimizer also holds parameters of another model.
        TypeError: `optimizer` is not an optimizer of torch, or is one of `hat.optim`, which need no guard; or a
            parameter is spread over several processes, as by `fully_shard`.
    """
    if getattr(optimizer, "locks_itself", False) and not isinstance(optimizer, type):
        raise TypeError(f"optimizer: {type(optimizer).__name__} of hat.optim locks by itself, no guard needed")
    check_type("optimizer", optimizer, torch.optim.Optimizer, "an optimizer of torch")
    check_type("model", model, HATModel, "a hat.HATModel")
    check_max_norm(max_norm)
    refuse_sharded(model.named_parameters, "model")
    model_ids = {id(p) for p in model.parameters()}
    if not any(id(p) in model_ids for p in _parameters(optimizer)):
        raise ValueError("optimizer: expected parameters of the model, got none")
    if hasattr(optimizer, "_guarded"):  # two guards would apply a fractional rate twice
        raise ValueError("optimizer: expected an optimizer without a guard, got a guarded one")
    refuse_foreign(_parameters(optimizer), model, "optimizer")
    claim(_parameters(optimizer), None)
    _part_embeddings(optimizer, model)
    return _guarded(optimizer, model, max_norm)


def _guarded(optimizer: torch.optim.Optimizer, model: HATModel, max_norm: float | None) -> torch.optim.Optimizer:
    """The optimizer with its guard."""
    hooks = _Guard(optimizer, model, max_norm)
    optimizer._guarded = hooks  # type: ignore[attr-defined]
    optimizer.register_step_pre_hook(hooks.before_step)
    optimizer.register_step_post_hook(hooks.after_step)
    # Nothing that the optimizer holds may hold it: it would live on after its task, and follow every later change.
    step = vars(optimizer).get("step", type(optimizer).step)  # a scheduler may have replaced it
    is_own = "step" in vars(optimizer)

    @wraps(step)
    def step_to_the_end(_: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs) if is_own else step(hooks._own_optimizer(), *args, **kwargs)
        except BaseException:  # the hook after the step is not called then
            with interrupt_waits():
                hooks.give_up()
            raise

    optimizer.step = MethodType(step_to_the_end, proxy(optimizer))  # type: ignore[method-assign]
    # torch neither copies nor pickles hooks, so a plain copy would have no guard.
    optimizer.__reduce_ex__ = hooks.reduced  # type: ignore[method-assign]
    optimizer.add_param_group = hooks.add_param_group  # type: ignore[method-assign]
    return optimizer


def locker_of(optimizer: Any) -> Any:
    """The object that makes an optimizer respect the locks of a model.

    Returns:
        The optimizer itself if it is one of `hat.optim`; the guard of a guarded optimizer; None for any other
        optimizer. The object has the attributes `model` and `max_norm`, and the method `abandon`.
    """
    return optimizer if getattr(optimizer, "locks_itself", False) else getattr(optimizer, "_guarded", None)


class _Guard:
    """The hooks of a guarded optimizer, and what they keep between the two hooks of a step.

    Attributes:
        optimizer: a weak reference to the guarded optimizer.
        model: its locks count.
        max_norm: the largest global norm of the locked gradients, or None.
        before: (tensor, values before the step, lock) of every tensor with a lock that the optimizer itself moves.
        shared: every tensor that finished tasks read, a parameter or a part of one, with its lock.
        stand_ins: the stand-ins of the present step, or None.
    """

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
        self._leave()  # in case an error has ended the last step
        locks = self._enter(optimizer)
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
            _drop(optimizer, self.model.frozen.parameters)
            moved(optimizer, changes, before, after, like)

    def forget(self, gone: Sequence[Tensor]) -> None:
        """See `hat.network.moving.Follower`. The next step starts with a new state."""
        self._leave()
        optimizer = self.optimizer()
        if optimizer is not None:
            _drop(optimizer, {id(parameter) for parameter in gone})
            optimizer.state.clear()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As `torch.optim.Optimizer.add_param_group`, see `hat.optim.groups.add_group`."""
        optimizer = self._own_optimizer()
        add_group(optimizer, partial(type(optimizer).add_param_group, optimizer), param_group)

    def reduced(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """What `copy.deepcopy` and `pickle` need to make the optimizer and its guard; see `object.__reduce_ex__`."""
        optimizer = self._own_optimizer()
        own = {**optimizer.__getstate__(), "_left_empty": list(left_empty(optimizer))}
        return _restored, (type(optimizer), own, self.model, self.max_norm)

    def _own_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, for its own methods, which run only while it lives."""
        optimizer = self.optimizer()
        assert optimizer is not None
        return optimizer

    def give_up(self) -> None:
        """Clean up after a step that has ended with an error."""
        if any(is_capturing(embedding.device) for embedding in self.model.embeddings):
            return  # `abandon` follows
        self._leave()
        optimizer = self._own_optimizer()
        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.state.clear()  # its history may be written in part

    def abandon(self) -> None:
        """Clean up after a step that a graph has recorded only in part. It has not run, so no weight is restored."""
        self.before = []
        self._leave(write=False)

    def _enter(self, optimizer: torch.optim.Optimizer) -> dict[Tensor, Lock | None]:
        """Replace parameters by their stand-ins, if the optimizer allows stand-ins.

        Returns:
            The lock of every tensor that the optimizer now holds (a whole parameter or a part) and that finished tasks
            read; None if all of the tensor may move.
        """
        parameters = _parameters(optimizer)  # not those of the model: their number grows with the number of tasks
        known = self.model.frozen.parameters
        frozen = [p for p in parameters if not p.requires_grad or id(p) in known]
        if not can_stand_in(optimizer):
            locks = self.model.locks()
            # Parameters without a gradient need a lock too: LBFGS moves them by its history.
            held = {p: lock for p in parameters if (lock := locks.get(p)) is not None}
            held |= {p: frozen_lock(p) for p in frozen}
            if not can_stand_in_whole(optimizer):
                self.before = [(p, p.detach().clone(), lock) for p, lock in held.items()]
                self.shared = list(held.items())
                return dict(self.shared)
            blocks: dict[Tensor, Sequence[Block]] = {p: [Block(lock=lock, free=False)] for p, lock in held.items()}
            self.stand_ins = StandIns(optimizer, blocks, whole=True)
            return self._locks_of_parts(blocks)
        model_blocks = self.model.blocks()
        blocks = {p: model_blocks[p] for p in parameters if p in model_blocks and model_blocks[p] != [Block()]}
        packed = {p for p, state in optimizer.state.items() if any(isinstance(value, list) for value in state.values())}
        # If a loaded state comes from a model with more locks, `StandIns` refuses it.
        blocks |= {p: model_blocks.get(p, [Block()]) for p in packed}
        for parameter in frozen:
            blocks.pop(parameter, None)
        self.stand_ins = StandIns(optimizer, blocks, frozen)
        return self._locks_of_parts(blocks)

    def _locks_of_parts(self, blocks: Mapping[Tensor, Sequence[Block]]) -> dict[Tensor, Lock | None]:
        """The lock of every stand-in; None if all of it may move. Notes what finished tasks read."""
        stand_ins = self.stand_ins
        assert stand_ins is not None
        locks = {p: [None if block.free else block.lock for block in movable] for p, movable in blocks.items()}
        self.shared = [pair for p in locks for pair in zip(stand_ins.views[p], locks[p], strict=True)]
        return {part: lock for p in locks for part, lock in zip(stand_ins.parts[p], locks[p], strict=True)}

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        """If an error leaves the block, restore everything before the error goes on."""
        try:
            yield
        except BaseException:
            self._leave()
            raise

    @torch.no_grad()
    def _leave(self, *, write: bool = True) -> None:
        """Restore locked elements, and put the parameters back into the optimizer; for `write` see `StandIns.leave`."""
        for values, before, lock in self.before:
            hat_kernels.lock_update_(values, before, lock)
        if self.stand_ins is not None:
            self.stand_ins.leave(write=write)
        self.stand_ins, self.before, self.shared = None, [], []

    @torch.no_grad()
    def _tame(self, optimizer: torch.optim.Optimizer, locks: dict[Tensor, Lock | None]) -> None:
        """Remove locked gradients of the model, make the others finite, and clip them."""
        trained = {id(p) for p in self.model.body.parameters()} | {id(p) for p in locks}
        trained |= {id(p) for p in self.model.head.parameters()} if self.model.learning else set()
        grads = [(p.grad, locks.get(p)) for p in _parameters(optimizer) if p.grad is not None and id(p) in trained]
        for grad, lock in grads:
            if lock is not None:
                _drop_locked_(grad, lock)
        factor = tame_([g for g, _ in grads], [lock for _, lock in grads], self.max_norm).factor
        if factor is not None:
            for grad, _ in grads:
                grad.mul_(factor)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _drop(optimizer: torch.optim.Optimizer, frozen: Container[int]) -> None:
    """Remove frozen parameters, see `drop`; not from LBFGS, whose history is one vector for all of its parameters."""
    if not isinstance(optimizer, torch.optim.LBFGS):
        drop(optimizer, frozen)


def _part_embeddings(optimizer: torch.optim.Optimizer, model: HATModel) -> None:
    """Move the embeddings to a group without weight decay."""
    embedding_ids = {id(e) for e in model.embeddings}
    for group in list(optimizer.param_groups):
        embeddings = [p for p in group["params"] if id(p) in embedding_ids]
        if embeddings and group.get("weight_decay"):
            group["params"] = [p for p in group["params"] if id(p) not in embedding_ids]
            optimizer.add_param_group({**group, "params": embeddings, "weight_decay": 0.0})


def _restored(
    kind: type[torch.optim.Optimizer], state: dict[str, Any], model: HATModel, max_norm: float | None
) -> torch.optim.Optimizer:
    """The optimizer of `_Guard.reduced`. It may hold no parameter of the model, as when its task has ended."""
    optimizer = kind.__new__(kind)
    optimizer.__setstate__(state)
    return _guarded(optimizer, model, max_norm)


def _drop_locked_(grad: Tensor, lock: Lock) -> None:
    """Set the gradient to 0 where the rate is 0. The guard applies fractional rates later, once, to the update."""
    movable = lock._replace(
        rows=None if lock.rows is None else (lock.rows > 0).to(lock.rows.dtype),
        columns=None if lock.columns is None else (lock.columns > 0).to(lock.columns.dtype),
    )
    hat_kernels.lock_gradient_(grad, movable)
