"""Forgetting one task on purpose, and exactly: what only it could have shaped is drawn anew, the others keep every bit.

Training moves every weight that is free, also those that its task does not use in the end. So all that is free once the
task is gone is drawn anew, not only what its mask uses. What the others use stays, though the task had a share in it
where they came later and built on its units.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hat.life.model import HATModel
from hat.network import moving
from hat.network.heads import ForgottenHead
from hat.network.interrupt import interrupt_waits
from hat.network.reading import read_by_head, stacks
from hat.units.buffers import foreign
from hat.units.gate import Gate
from hat.units.locks import unlocked
from hat.units.per_task import PerTask, per_task
from hat.units.redrawn import drawn
from hat_kernels.lock import rate


def forget(model: HATModel, task: int) -> None:
    """Remove a finished task, as if it had never been learned.

    Its masks, its head and what it has of its own go. Of every shared parameter the elements with rate 1 under the
    remaining tasks (nobody uses them) are drawn anew by `reset_parameters` of their module, which must not depend on
    their values; where it has none, from N(0, 0.02^2). Every other element, and so every logit of the other tasks,
    keeps its bits. What other tasks keep for units that they do not use goes back to where it started (in the columns
    of a head: 0), free units lie again as they lay at first, embeddings and each task's own tensors start anew,
    gradients are None, and optimizers have no state. With the random number generator set before, what is free has the
    same bits whatever the task has learned; after the last task is forgotten, so has all of the `state_dict`, but for
    buffers that nothing resets, see below.

    The ids of the other tasks stay. Units that are freed between locked ones stay where they are, and the next tasks
    take those first; until then only what is locked in front of them saves work. When no task remains and nothing is
    reserved, parameters along no gate are drawn anew and may be trained again, and buffers are reset where a module
    has a method for it.

    Not drawn anew: a parameter along a gate that the user has frozen (`requires_grad` False), which no task trains; a
    buffer that no method of its module resets, as a hand-written average or the vectors of a spectral norm: write into
    it what it should start from; and, while another task remains, what all tasks share as the first one left it.

    Args:
        model: between two tasks; it is changed in place.
        task: a finished task.

    Raises:
        RuntimeError: a task is being learned.
        TypeError: `model` is no `HATModel`, or `task` no int.
        ValueError: there is no such task, it is forgotten already, or it has committed no mask.
    """
    _check(model, task)
    values = drawn(_modules(model))  # all of them before the first change: what fails until then changes nothing
    with torch.no_grad(), interrupt_waits():
        gone = _remove(model, task)
        moving.settle(model)
        _reset_unread(model)
        _renew(model, values)
        model.state.anneal(1.0)
        for gate in model.gates.values():
            gate.begin_task()
        for own in per_task(model.body).values():
            own.begin_task()
        moving.renew(model, gone)


def _check(model: HATModel, task: int) -> None:
    if not isinstance(model, HATModel):
        raise TypeError(f"model: expected a hat.HATModel, got {type(model).__name__}")
    if model.learning:
        raise RuntimeError(f"forget: task {model.task} is still being learned; call end_task() first")
    model.check_task(task, finished=True)
    committed = min(gate.tasks for gate in model.gates.values())
    if committed < model.tasks:
        raise ValueError(f"task: expected one of {model.tasks} with masks, got {committed} masks at some gate")


def _modules(model: HATModel) -> list[nn.Module]:
    """All that may have shared parameters, those outside of the body that a gate knows included."""
    known = [member.module for gate in model.gates.values() for member in gate.members]
    return [m for m in dict.fromkeys([*model.body.modules(), *known]) if not isinstance(m, Gate | PerTask)]


def _remove(model: HATModel, task: int) -> list[Tensor]:
    """What is the task's own; the parameters of its head are returned, zeros by now."""
    for gate in model.gates.values():
        gate.forget(task)
    gone: list[Tensor] = list(model.heads[task].parameters())
    for parameter in gone:
        parameter.zero_()  # somebody may hold them
    model.heads[task] = ForgottenHead()
    model.classes[task] = ()
    model._forgotten.add(task)
    return gone


def _reset_unread(model: HATModel) -> None:
    """All that the forgotten task keeps; the others, for units that they do not use, may have it from its weights."""
    for stack in stacks(model):
        stack.values.copy_(torch.where(stack.read, stack.values, stack.initial))
    for task in model.remembered:
        weight = model.heads[task].weight
        assert isinstance(weight, Tensor)
        weight.masked_fill_(~read_by_head(model, task), 0)


def _renew(model: HATModel, values: Mapping[Tensor, Tensor]) -> None:
    """New values for all that is free, and no gradients."""
    held = model.holds
    for parameter, lock in model.locks().items():
        if parameter.requires_grad:
            free = torch.ones_like(parameter) if lock is None else rate(lock, parameter)
            parameter.copy_(torch.where(free == 1, values[parameter], parameter))
    if not held:
        buffers = {buffer for _, _, buffer in foreign(model.body).values()}
        loose = unlocked(model.body).values()
        for tensor in [*loose, *buffers]:
            if tensor in values:
                tensor.copy_(values[tensor])
        for parameter in loose:
            parameter.requires_grad_(True)
    for parameter in model.body.parameters():
        parameter.grad = None
    model.freeze()
