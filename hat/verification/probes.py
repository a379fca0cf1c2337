"""Probes: the logits of finished tasks and the locked elements that they use, kept for `hat.verify` to compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hat.arguments import check_arguments, got
from hat.life.model import HATModel
from hat.network.reading import read_by_head, stacks
from hat.tracing.trees import flat
from hat.tracing.untouched import evaluating
from hat.units.buffers import foreign
from hat.verification.recording import Call, having_used, record
from hat_kernels.lock import rate


@dataclass
class Probe:
    """The answers for one task at the time of `Probes.add`.

    Attributes:
        inputs: [B, ...], the probed inputs, or a tuple of tensors.
        logits: [B, classes].
        calls: the recorded calls of all modules.
    """

    inputs: Tensor
    logits: Tensor
    calls: list[Call]


@dataclass
class Probes:
    """Inputs and logits of learned tasks, and the locked elements that they use, for `hat.verify` to compare later.

    Attributes:
        tasks: the probe of every task by id.
        parameters: by name, the parameters; a locked element has the value that it had when it was first locked.
        buffers: by name, the same for masks, for tensors that every task has for itself, and for buffers of the body.
        locked: by name, which elements are locked, bool.
        finished: how many tasks were finished at the last `add`.
        forgotten: which of these tasks were forgotten at the last `add`.
    """

    tasks: dict[int, Probe] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    locked: dict[str, Tensor] = field(default_factory=dict)
    finished: int = 0
    forgotten: tuple[int, ...] = ()

    @torch.no_grad()
    def add(self, model: HATModel, task: int, inputs: Any) -> None:
        """Keep the logits of a finished task on `inputs`, in evaluation mode, and all locked elements.

        Args:
            model: has finished the task.
            task: the id of the task.
            inputs: [B, ...], or a tuple of tensors if the model takes several.

        Raises:
            TypeError: `model` is not a `HATModel`, `task` is not an int, or `inputs` are not tensors.
            ValueError: the task is not finished, or it is forgotten; or the model was grown since the last `add`.
        """
        check_arguments(Probes.add, {"model": model})
        model.check_task(task, finished=True)
        if not isinstance(inputs, Tensor | tuple) or not all(
            isinstance(part, Tensor) and not part.is_sparse for part in flat(inputs)
        ):
            raise TypeError(f"inputs: expected a dense tensor or a tuple of them, got {got(inputs)}")
        self.check_shapes(model)
        logits = logits_of(model, task, inputs)
        self._drop_forgotten(model)
        for store, tensors in ((self.parameters, locked_parameters(model)), (self.buffers, locked_buffers(model))):
            for name, values, locked in tensors:
                self._keep(store, name, values.detach().clone(), locked)
        self.finished = model.tasks
        self.tasks[task] = Probe(_copied(inputs), logits, record(model, task, lambda: logits_of(model, task, inputs)))

    def _keep(self, store: dict[str, Tensor], name: str, values: Tensor, locked: Tensor) -> None:
        """Store the values of a tensor. Elements that were locked before keep their stored values."""
        if name in store:
            old_rows = rows_of(store[name])  # a stack has more rows if more tasks are finished
            values[old_rows] = torch.where(self.locked[name], store[name], values[old_rows])
            locked[old_rows] |= self.locked[name]
        store[name], self.locked[name] = values, locked

    def _drop_forgotten(self, model: HATModel) -> None:
        """Drop elements that only forgotten tasks have locked: they may change, and may be locked again later."""
        self.locked = self.still_locked(model)
        self.forgotten = model.forgotten
        for store in (self.tasks, self.parameters, self.buffers):
            for key in [key for key in store if key not in self.locked and key not in model.remembered]:
                del store[key]  # type: ignore[arg-type]

    def still_locked(self, model: HATModel) -> dict[str, Tensor]:
        """The elements of `locked` that are still locked by tasks that were finished at the last `add`.

        Elements that only forgotten tasks have locked do not count.
        """
        check_arguments(Probes.still_locked, locals())
        if model.forgotten == self.forgotten:
            return self.locked
        remembered = [task for task in model.remembered if task < self.finished]
        if not remembered and not any(gate.reserves for gate in model.gates.values()):
            return {}
        with having_used(model, remembered):
            locked_now = {name: locked for name, _, locked in (*locked_parameters(model), *locked_buffers(model))}
        return {
            name: locked & locked_now[name][rows_of(locked)]
            for name, locked in self.locked.items()
            if name in locked_now
        }

    def check_shapes(self, model: HATModel) -> None:
        """Refuse a model whose tensors have other shapes than the stored ones.

        Raises:
            ValueError: a parameter or a mask has another shape.
        """
        check_arguments(Probes.check_shapes, locals())
        shapes = {name: (p.shape, self.parameters) for name, p in model.named_parameters()}
        shapes |= {f"body.{name}.masks": (gate.masks.shape, self.buffers) for name, gate in model.gates.items()}
        for name, (shape, store) in shapes.items():
            first = int(store is self.buffers)  # skips the rows of masks, which grow with the number of tasks
            stored_shape = store[name].shape if name in store else shape
            if shape[first:] != stored_shape[first:]:
                got = f"{name} of {tuple(stored_shape)}, now {tuple(shape)}"
                raise ValueError(f"probes: made before the model was grown; expected them added anew, got {got}")


def locked_parameters(model: HATModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, values, which elements are locked) of every parameter with a lock."""
    locks = model.active_locks()
    unread = {f"heads.{task}.weight": ~read_by_head(model, task) for task in model.remembered}
    for name, parameter in model.named_parameters():
        if parameter in locks:
            locked = (rate(locks[parameter], parameter) == 0).expand_as(parameter).clone()
            if name in unread:
                locked[:, unread[name]] = False
            yield name, parameter, locked


def locked_buffers(model: HATModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, values, which elements are locked) of every buffer on which the logits of a finished task can depend."""
    for stack in stacks(model):
        yield stack.name, stack.values, stack.read
    for name, gate in model.gates.items():
        moves = model.config.mask_mode == "published"  # there, units with a small mask may change places
        locked = gate.masks > 0.5 if moves else torch.ones_like(gate.masks, dtype=torch.bool)
        locked[list(model.forgotten)] = False
        yield f"body.{name}.masks", gate.masks, locked
    for name, (_, _, buffer) in foreign(model.body).items():
        yield f"body.{name}", buffer, torch.ones_like(buffer, dtype=torch.bool)


def rows_of(values: Tensor) -> Any:
    """The index of the rows of `values` in a tensor that may have more rows."""
    return slice(len(values)) if values.dim() else ...


def _copied(inputs: Any) -> Any:
    """A copy of a tensor, or of a tuple of tensors."""
    return tuple(map(_copied, inputs)) if isinstance(inputs, tuple) else inputs.clone()


def logits_of(model: HATModel, task: int, inputs: Any) -> Tensor:
    """The logits of a task in evaluation mode. Afterwards the model is in its old mode."""
    with evaluating(model):
        logits: Tensor = model(inputs, task=task)
    return logits
