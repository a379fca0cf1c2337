"""Forgetting one task on purpose: its traces are drawn anew, and the other tasks keep every bit.

Training moves every free weight, also weights that the task does not use in the end. So every weight that no remaining
task uses is drawn anew, not only the weights under the mask of the forgotten task.

Example: a first layer with 4 units.

    task 0 uses units 0 and 1    mask [1, 1, 0, 0]
    task 1 uses units 1 and 2    mask [0, 1, 1, 0]
    `forget(model, 1)`           rows 2 and 3 of the weight are drawn anew: no remaining task uses them
                                 rows 0 and 1 keep their bits: task 0 uses them

If task 0 is forgotten instead, rows 0 and 3 are drawn anew, and row 1 keeps its bits, because task 1 uses it. Task 0
has trained row 1, so what task 0 has learned there remains, as part of task 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hat.arguments import check_arguments
from hat.life.model import HATModel
from hat.network import moving, seals
from hat.network.heads import ForgottenHead
from hat.network.interrupt import interrupt_waits
from hat.network.reading import read_by_head, stacks
from hat.network.replicas import agree_to_change, share_change
from hat.units.buffers import foreign
from hat.units.gate import Gate
from hat.units.locks import unlocked
from hat.units.per_task import PerTask, per_task
from hat.units.redrawn import drawn
from hat_kernels.lock import rate


def forget(model: HATModel, task: int) -> None:
    """Remove a finished task, as if it had never been learned.

    - The masks of the task, its head and its own tensors are removed. The ids of the other tasks stay.
    - In every shared parameter, the elements with rate 1 under the remaining tasks are drawn anew, because no remaining
      task uses them. `reset_parameters` of their module draws them, and must not depend on their values. If the module
      has no such method, they are drawn from N(0, 0.02^2). Every other element keeps its bits, and so does every logit
      of the other tasks.
    - Values that other tasks keep for units which they do not use go back to their initial values. Columns of a head go
      to 0.
    - Free units go back to their first order. Embeddings and the tensors for the next task start anew. Gradients are
      None, and optimizers have no state.
    - If no task remains and nothing is reserved, parameters along no gate are drawn anew and may be trained again, and
      buffers are reset if a module has a method for it.

    If the random number generator is seeded before the call, free elements get the same bits whatever the task has
    learned. After the last task is forgotten, the whole `state_dict` does, except buffers that no method resets.

    With a process group, all its processes call this together, and the values that the first process draws are
    everyone's.

    Units that become free between locked units keep their place, and the next tasks take them first. Until then, only
    the locked units in front of them save work.

    Not drawn anew are:

    - a parameter that the user has frozen (`requires_grad` False), because no task trains it;
    - a buffer that no method of its module resets, as a hand-written average or the vectors of a spectral norm: write
      into the buffer what it should start from;
    - while another task remains, what all tasks share as the first task left it: parameters along no gate, and buffers.

    Args:
        model: the model, between two tasks; it is changed in place.
        task: the id of a finished task.

    Raises:
        RuntimeError: a task is being learned.
        TypeError: `model` is not a `HATModel`, or `task` is not an int.
        ValueError: there is no such task, the task is forgotten already, or a gate has no mask of the task.
        RuntimeError: another process of the model's group does not come, calls something else or has other parameters.

    Warns:
        DriftWarning: something that finished tasks use has moved since it was locked, see `HATModel.moved`.
    """
    check_arguments(forget, {"model": model})
    agree_to_change(model, f"hat.forget of task {task}", lambda: _check(model, task))
    with interrupt_waits():  # modules draw in place, and get their old values back
        values = drawn(_modules(model))  # all before the first change: an error here changes nothing
    with torch.no_grad(), interrupt_waits(), seals.opened(model, 2):
        removed = _remove(model, task)
        moving.settle(model)
        _reset_unread(model)
        _renew(model, values)
        model.state.set_progress(1.0)
        for gate in model.gates.values():
            gate.begin_task()
        for module in per_task(model.body).values():
            module.begin_task()
        moving.renew(model, removed)
    share_change(model, f"hat.forget of task {task}")


def _check(model: HATModel, task: int) -> None:
    """Refuse arguments with which `forget` cannot work; see there."""
    if model.learning:
        raise RuntimeError(f"forget: task {model.task} is still being learned; call end_task() first")
    model.check_task(task, finished=True)
    committed = min(gate.tasks for gate in model.gates.values())
    if committed < model.tasks:
        raise ValueError(f"task: expected {model.tasks} masks at every gate, got a gate with {committed}")


def _modules(model: HATModel) -> list[nn.Module]:
    """The modules that may have shared parameters: those of the body, and others along gates."""
    along_gates = [member.module for gate in model.gates.values() for member in gate.members]
    return [m for m in dict.fromkeys([*model.body.modules(), *along_gates]) if not isinstance(m, Gate | PerTask)]


def _remove(model: HATModel, task: int) -> list[Tensor]:
    """Remove the masks and the head of a task. Returns the parameters of the head, which are zeros now."""
    for gate in model.gates.values():
        gate.forget(task)
    removed: list[Tensor] = list(model.heads[task].parameters())
    for parameter in removed:
        parameter.zero_()  # the user may still hold a reference
    model.heads[task] = ForgottenHead()
    model.classes[task] = ()
    model._forgotten.add(task)
    return removed


def _reset_unread(model: HATModel) -> None:
    """Reset the values that no task reads.

    These are all values of the forgotten task, and the values of other tasks for units that they do not use. The latter
    may have been shaped by weights of the forgotten task.
    """
    for stack in stacks(model):
        stack.values.copy_(torch.where(stack.read, stack.values, stack.initial))
    for task in model.remembered:
        weight = model.heads[task].weight
        assert isinstance(weight, Tensor)
        weight.masked_fill_(~read_by_head(model, task), 0)


def _renew(model: HATModel, values: Mapping[Tensor, Tensor]) -> None:
    """Give new values to all free elements, and remove gradients.

    Args:
        model: the model, in which the task is removed already.
        values: newly drawn values of every tensor.
    """
    still_holds = model.holds
    for parameter, lock in model.locks().items():
        if parameter.requires_grad:
            free = torch.ones_like(parameter) if lock is None else rate(lock, parameter)
            parameter.copy_(torch.where(free == 1, values[parameter], parameter))
    if not still_holds:
        buffers = {buffer for _, _, buffer in foreign(model.body).values()}
        along_no_gate = unlocked(model.body).values()
        for tensor in [*(p for p in along_no_gate if not model.frozen.by_user(p)), *buffers]:
            if tensor in values:
                tensor.copy_(values[tensor])
    for parameter in model.body.parameters():
        parameter.grad = None
    model.freeze()
