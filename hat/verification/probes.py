"""What finished tasks answer and stand on, kept so that `hat.verify` can compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hat.life.model import HATModel
from hat.network.reading import read_by_head, stacks
from hat.units.buffers import foreign
from hat.verification.recording import Call, having_used, record
from hat_kernels.lock import rate


@dataclass
class Probe:
    """What one task answered at the time of `Probes.add`, and every module on the way."""

    inputs: Tensor
    logits: Tensor
    calls: list[Call]


@dataclass
class Probes:
    """Inputs and logits of learned tasks, and what they stood on, to be compared later with `hat.verify`.

    Attributes:
        tasks: the probe of every task by id.
        parameters: by name, every element as it was when it was first found locked.
        buffers: by name, the same of masks, of what finished tasks keep for themselves, and of the body's own buffers.
        locked: by name, which elements have been found locked, bool.
        finished: how many tasks there were at the last `add`.
        forgotten: which of them were forgotten by then.
    """

    tasks: dict[int, Probe] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    locked: dict[str, Tensor] = field(default_factory=dict)
    finished: int = 0
    forgotten: tuple[int, ...] = ()

    @torch.no_grad()
    def add(self, model: HATModel, task: int, inputs: Any) -> None:
        """Remember the logits of a finished task on `inputs` [B, ...], in evaluation mode, and what is locked.

        Raises:
            ValueError: the task is not finished, or it is forgotten; or the model was grown since the last `add`.
        """
        if not 0 <= task < model.tasks:
            raise ValueError(f"task: expected a finished one, 0 to {model.tasks - 1}, got {task}")
        self.check_shapes(model)
        logits = logits_of(model, task, inputs)
        self._drop_forgotten(model)
        for store, standing in ((self.parameters, standing_parameters(model)), (self.buffers, standing_buffers(model))):
            for name, now, locked in standing:
                self._keep(store, name, now.detach().clone(), locked)
        self.finished = model.tasks
        self.tasks[task] = Probe(_copied(inputs), logits, record(model, task, lambda: logits_of(model, task, inputs)))

    def _keep(self, store: dict[str, Tensor], name: str, now: Tensor, locked: Tensor) -> None:
        """Elements keep the value that they were first found locked with."""
        if name in store:
            known = rows_of(store[name])  # more tasks may be finished since
            now[known] = torch.where(self.locked[name], store[name], now[known])
            locked[known] |= self.locked[name]
        store[name], self.locked[name] = now, locked

    def _drop_forgotten(self, model: HATModel) -> None:
        """What only forgotten tasks have locked may have any value, and may be locked again with that."""
        self.locked = self.still_locked(model)
        self.forgotten = model.forgotten
        for store in (self.tasks, self.parameters, self.buffers):
            for key in [key for key in store if key not in self.locked and key not in model.remembered]:
                del store[key]  # type: ignore[arg-type]

    def still_locked(self, model: HATModel) -> dict[str, Tensor]:
        """Of `locked`, what tasks that were finished at the last `add` and are not forgotten now lock."""
        if model.forgotten == self.forgotten:
            return self.locked
        left = [task for task in model.remembered if task < self.finished]
        if not left and not any(gate.reserves for gate in model.gates.values()):
            return {}
        with having_used(model, left):
            now = {name: locked for name, _, locked in (*standing_parameters(model), *standing_buffers(model))}
        return {name: was & now[name][rows_of(was)] for name, was in self.locked.items() if name in now}

    def check_shapes(self, model: HATModel) -> None:
        """Refuse a model of other sizes than the one that was looked at.

        Raises:
            ValueError: a parameter or a mask has another shape.
        """
        now = {name: (p.shape, self.parameters) for name, p in model.named_parameters()}
        now |= {f"body.{name}.masks": (gate.masks.shape, self.buffers) for name, gate in model.gates.items()}
        for name, (shape, store) in now.items():
            rows = int(store is self.buffers)  # more tasks may be finished since
            then = store[name].shape if name in store else shape
            if shape[rows:] != then[rows:]:
                got = f"{name} of {tuple(then)}, now {tuple(shape)}"
                raise ValueError(f"probes: made before the model was grown; expected them added anew, got {got}")


def standing_parameters(model: HATModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, values, which elements are locked) of every parameter that a lock holds in part or altogether."""
    locks = model.active_locks()
    unread = {f"heads.{task}.weight": ~read_by_head(model, task) for task in model.remembered}
    for name, parameter in model.named_parameters():
        if parameter in locks:
            locked = (rate(locks[parameter], parameter) == 0).expand_as(parameter).clone()
            if name in unread:
                locked[:, unread[name]] = False
            yield name, parameter, locked


def standing_buffers(model: HATModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The same of buffers that an answer can depend on."""
    for stack in stacks(model):
        yield stack.name, stack.values, stack.read
    for name, gate in model.gates.items():
        moves = model.config.mask_mode == "published"  # a unit that is used a little may change places
        locked = gate.masks > 0.5 if moves else torch.ones_like(gate.masks, dtype=torch.bool)
        locked[list(model.forgotten)] = False
        yield f"body.{name}.masks", gate.masks, locked
    for name, (_, _, buffer) in foreign(model.body).items():
        yield f"body.{name}", buffer, torch.ones_like(buffer, dtype=torch.bool)


def rows_of(values: Tensor) -> Any:
    """To index what may have more rows by now."""
    return slice(len(values)) if values.dim() else ...


def _copied(inputs: Any) -> Any:
    """Of a tensor or a tuple of them."""
    return tuple(map(_copied, inputs)) if isinstance(inputs, tuple) else inputs.clone()


def logits_of(model: HATModel, task: int, inputs: Any) -> Tensor:
    was_training = model.training
    try:
        found: Tensor = model.eval()(inputs, task=task)
    finally:
        model.train(was_training)
    return found
