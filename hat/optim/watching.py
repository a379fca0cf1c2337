"""Watch the optimizers of torch: tell of one that nobody guards, and of a head or an embedding that none of them holds.

A hook of torch runs before every step of every optimizer. The hook looks at an optimizer once after every turn in the
life of a model (`hat.network.turns`); in all other steps it compares two numbers. No tensor is read.

Example: `optimizer = torch.optim.AdamW(model.parameters())`, made before the first task and never guarded.

    task 0, first step     the head of task 0 has a gradient, and no optimizer holds it: an `UntrainedWarning`
    task 1, first step     the optimizer holds weights that task 0 uses a part of: an `UnguardedWarning`
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from hat.life.model import HATModel
from hat.network.moving import followers
from hat.network.turns import living, turns
from hat.optim.guard import locker_of
from hat.text import dotted
from hat.warnings import UnguardedWarning, UntrainedWarning

_seen: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
"""The number of turns at which every optimizer was looked at. All of these optimizers have stepped."""
_unguarded: WeakSet[Optimizer] = WeakSet()
"""The optimizers that an `UnguardedWarning` has told of."""
_untrained: WeakKeyDictionary[HATModel, int] = WeakKeyDictionary()
"""`State.edits` of every model at its last `UntrainedWarning`: one for every task, and again after a load."""
_STACKLEVEL = 5  # from a warning to the line that calls `step`


def start() -> None:
    """Watch every optimizer of this process from now on. Called once, when this package is imported."""
    register_optimizer_step_pre_hook(_before_step)


def _before_step(optimizer: Optimizer, *_: Any) -> None:
    if _seen.get(optimizer) != turns[0]:
        _look(optimizer)


def _look(optimizer: Optimizer) -> None:
    """Warn if an optimizer that is about to step is not guarded, or if a head or an embedding is in no optimizer."""
    models = living()
    if locker_of(optimizer) is None:  # a locker keeps states of the blocks that may move, and lets them grow
        for model in models:
            _refuse_outgrown(optimizer, model)
    _seen[optimizer] = turns[0]
    held = _held_by(optimizer)
    for model in models:
        if not isinstance(model, HATModel):
            continue
        # An optimizer that was made for the model may hold only what was trained before.
        if getattr(locker_of(optimizer), "model", None) is not model and not any(
            id(p) in held for p in _current(model)
        ):
            continue
        _look_for_guard(optimizer, model, held)
        if model.learning and _untrained.get(model) != model.state.edits:
            _look_for_untrained(optimizer, model)


def _refuse_outgrown(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse a step with states of a parameter that has grown since, because a fused step would read past their end.

    Raises:
        RuntimeError: a state has another shape than its parameter. States with fewer dimensions, and dimensions of size
            1, as of Adafactor, do not count.
    """
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor) or value.dim() != parameter.dim():
                continue
            if any(size not in (1, wanted) for size, wanted in zip(value.shape, parameter.shape, strict=True)):
                raise RuntimeError(
                    f"{type(optimizer).__name__}: expected {key} of {name} to be {tuple(parameter.shape)}, got "
                    f"{tuple(value.shape)}: the network has grown since; make a new optimizer, or call "
                    "hat.guard(optimizer, model) before hat.grow"
                )


def _look_for_guard(optimizer: Optimizer, model: HATModel, held: set[int]) -> None:
    """Warn if the optimizer may move a locked weight of the model. Every optimizer is told of once."""
    if getattr(locker_of(optimizer), "model", None) is model or optimizer in _unguarded or not model.holds:
        return
    if any(getattr(follower, "shared", None) for follower in followers(model)):  # inside the step of a guarded wrapper
        return
    blocks = model.blocks()
    for name, parameter in model.body.named_parameters():
        if id(parameter) not in held or not parameter.requires_grad or parameter not in blocks:
            continue
        if not (len(blocks[parameter]) == 1 and not blocks[parameter][0].where and blocks[parameter][0].free):
            _unguarded.add(optimizer)
            warnings.warn(
                f"{type(optimizer).__name__} holds body.{name}, which finished tasks use, and may move it: "
                "call hat.guard(optimizer, model) once, before the first step",
                UnguardedWarning,
                stacklevel=_STACKLEVEL,
            )
            return


def _look_for_untrained(optimizer: Optimizer, model: HATModel) -> None:
    """Warn if the current head or an embedding has a gradient but is in no optimizer."""
    learned = dict(model.heads[model.task].named_parameters(f"heads.{model.task}"))
    learned |= {dotted("body", name, "embedding"): gate.embedding for name, gate in model.gates.items()}
    missing = _missing({name: p for name, p in learned.items() if p.requires_grad}, _known(model))
    if missing:
        missing = _missing(missing, _optimizers())
    for name, parameter in missing.items():
        if parameter.grad is not None:
            _untrained[model] = model.state.edits
            warnings.warn(
                f"{name} has a gradient but is in no optimizer, so it never learns: make the optimizer of "
                "model.task_parameters() after begin_task(), or call optimizer.add_param_group({'params': ...})",
                UntrainedWarning,
                stacklevel=_STACKLEVEL,
            )
            return
    for parameter in missing.values():
        _look_again_at_gradient(optimizer, parameter)


def _missing(parameters: dict[str, nn.Parameter], optimizers: Iterable[Optimizer]) -> dict[str, nn.Parameter]:
    """The parameters that none of these optimizers holds."""
    held = set().union(*map(_held_by, optimizers))
    return {name: parameter for name, parameter in parameters.items() if id(parameter) not in held}


def _optimizers() -> list[Optimizer]:
    """All optimizers of this process, also those that have not stepped. To find them takes some milliseconds."""
    objects = gc.get_objects()
    classes = {cls for cls in set(map(type, objects)) if issubclass(cls, Optimizer)}
    # An error in a constructor leaves an optimizer without groups; a traceback may hold it.
    return [found for found in objects if type(found) in classes and hasattr(found, "param_groups")]


def _look_again_at_gradient(optimizer: Optimizer, parameter: Tensor) -> None:
    """Let the first step after the next gradient of a parameter look at an optimizer again."""
    reference = ref(optimizer)

    def forget(_: Tensor) -> None:
        handle.remove()
        if (watched := reference()) is not None:
            _seen.pop(watched, None)

    handle = parameter.register_post_accumulate_grad_hook(forget)


def _current(model: HATModel) -> Iterator[Tensor]:
    """The parameters of the body and of the current head."""
    yield from model.body.parameters()
    if model.learning:
        yield from model.heads[model.task].parameters()


def _held_by(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _known(model: HATModel) -> list[Optimizer]:
    """The optimizers that have stepped, and those that lock the model by themselves or by a guard."""
    of_model = [getattr(follower, "optimizer", lambda follower=follower: follower)() for follower in followers(model)]
    return [*_seen, *(optimizer for optimizer in of_model if isinstance(optimizer, Optimizer))]
