"""Measuring that nothing is forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hat.model import HATModel
from hat.per_task import per_task
from hat_kernels.lock import rate


@dataclass
class Probe:
    """What one task answered at the time of `Probes.add`."""

    inputs: Tensor
    logits: Tensor


@dataclass
class Probes:
    """Inputs and logits of learned tasks, and what they stood on, to be compared later with `hat.verify`.

    Attributes:
        tasks: the probe of every task by id.
        parameters: by name, every element as it was when it was first found locked; of what every task has of its own,
            what the finished tasks keep of it.
        locked: by name, which elements have been found locked, bool.
    """

    tasks: dict[int, Probe] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    locked: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, model: HATModel, task: int, inputs: Tensor) -> None:
        """Remember the logits of a finished task on `inputs` [B, ...], in evaluation mode, and what is locked.

        Raises:
            ValueError: the task is not finished.
        """
        if not 0 <= task < model.tasks:
            raise ValueError(f"task: expected a finished one, 0 to {model.tasks - 1}, got {task}")
        locks = model.active_locks()
        for name, parameter in model.named_parameters():
            lock = locks.get(parameter)
            if lock is None:
                continue
            now, locked = parameter.detach().clone(), rate(lock, parameter).expand_as(parameter) == 0
            if name in self.locked:
                now = torch.where(self.locked[name], self.parameters[name], now)
                locked = self.locked[name] | locked
            self.parameters[name], self.locked[name] = now, locked
        for name, (stack, read) in _stacks(model).items():
            now, locked = stack.clone(), read
            if name in self.locked:
                known = len(self.locked[name])  # more tasks are finished since
                now[:known] = torch.where(self.locked[name], self.parameters[name], now[:known])
                locked[:known] |= self.locked[name]
            self.parameters[name], self.locked[name] = now, locked
        self.tasks[task] = Probe(inputs.clone(), _logits(model, task, inputs))


@dataclass(frozen=True)
class Verification:
    """What `hat.verify` found.

    Attributes:
        drift: the largest absolute change of any logit, by task; inf where one turned NaN or inf.
        moved: the first locked parameter that changed, by name, or None.
        moved_by: the largest absolute change of a locked element of it.
    """

    drift: dict[int, float]
    moved: str | None
    moved_by: float

    @property
    def largest(self) -> float:
        """The largest drift of any task; 0.0 if nothing is forgotten."""
        return max(self.drift.values(), default=0.0)

    @property
    def exact(self) -> bool:
        """Every logit and every locked parameter kept its value."""
        return self.largest == 0 and self.moved is None

    def __str__(self) -> str:
        moved = "no locked parameter moved" if self.moved is None else f"{self.moved} moved by {self.moved_by:g}"
        return f"largest drift {self.largest:g} over {len(self.drift)} tasks; {moved}"


@torch.no_grad()
def verify(model: HATModel, probes: Probes) -> Verification:
    """Compare every probed task with what it answered then: bit for bit, on the same device and batch shape.

    Args:
        model: after more training.
        probes: made by `Probes.add` after each `end_task`.

    Returns:
        The drift of every task, and the first locked parameter that moved.

    Raises:
        ValueError: there is no probe.
    """
    if not probes.tasks:
        raise ValueError("probes: expected at least one, got none")
    drift = {task: largest_change(_logits(model, task, p.inputs), p.logits) for task, p in probes.tasks.items()}
    now: dict[str, Tensor] = dict(model.named_parameters())
    for name, (stack, _) in _stacks(model).items():
        if name in probes.parameters:
            now[name] = stack[: len(probes.parameters[name])]
    for name, before in probes.parameters.items():
        change = torch.where(probes.locked[name], now[name] - before, 0.0)
        if change.any():
            return Verification(drift, name, change.abs().max().item())
    return Verification(drift, None, 0.0)


def _stacks(model: HATModel) -> dict[str, tuple[Tensor, Tensor]]:
    """What every finished task has of its own, by name: all tasks' [T, ...], and which elements they read, bool."""
    found = {}
    for path, module in per_task(model.body).items():
        for name, stack in module.stacks():
            read = torch.ones_like(stack, dtype=torch.bool)
            for gate in model.gates.values():
                for member in gate.members:
                    if member.module is module and member.name == name:
                        on = (gate.masks[: len(stack)] != 0).repeat_interleave(member.repeat, 1)
                        if member.places is not None:
                            whole = on.new_ones(len(stack), stack.shape[1 + member.dim])
                            on = whole.index_copy(1, member.places.to(on.device), on)
                        read &= on.view(len(stack), *(-1 if d == member.dim else 1 for d in range(stack.dim() - 1)))
            found[".".join(filter(None, ("body", path, f"{name}_tasks")))] = stack, read
    return found


def _logits(model: HATModel, task: int, inputs: Tensor) -> Tensor:
    was_training = model.training
    try:
        return model.eval()(inputs, task=task)
    finally:
        model.train(was_training)


def largest_change(now: Tensor, then: Tensor) -> float:
    """The largest absolute difference: exactly 0.0 only if every element is equal, inf for a NaN or inf."""
    if torch.equal(now, then):
        return 0.0
    change = (now - then).abs().max().item()
    return change if math.isfinite(change) else math.inf
