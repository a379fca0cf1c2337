"""Measuring that nothing is forgotten."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hat.buffers import foreign
from hat.model import HATModel
from hat.reading import read_by_head, stacks
from hat.recording import WHOLE, Call, first_difference, having_used, record
from hat_kernels.lock import rate


class ForgettingError(RuntimeError):
    """A finished task answers otherwise, or what it stands on has moved.

    Attributes:
        verification: what `hat.verify` found.
    """

    def __init__(self, message: str, verification: Verification) -> None:
        super().__init__(message)
        self.verification = verification


@dataclass
class Probe:
    """What one task answered at the time of `Probes.add`, and every module on the way; see `hat.recording`."""

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
        logits = _logits(model, task, inputs)
        self._check_shapes(model)
        self._drop_forgotten(model)
        for store, standing in ((self.parameters, _parameters(model)), (self.buffers, _buffers(model))):
            for name, now, locked in standing:
                self._keep(store, name, now.detach().clone(), locked)
        self.finished = model.tasks
        self.tasks[task] = Probe(_copied(inputs), logits, record(model, task, lambda: _logits(model, task, inputs)))

    def _keep(self, store: dict[str, Tensor], name: str, now: Tensor, locked: Tensor) -> None:
        """Elements keep the value that they were first found locked with."""
        if name in store:
            known = _rows(store[name])  # more tasks may be finished since
            now[known] = torch.where(self.locked[name], store[name], now[known])
            locked[known] |= self.locked[name]
        store[name], self.locked[name] = now, locked

    def _drop_forgotten(self, model: HATModel) -> None:
        """What only forgotten tasks have locked may have any value, and may be locked again with that."""
        self.locked = self._still_locked(model)
        self.forgotten = model.forgotten
        for store in (self.tasks, self.parameters, self.buffers):
            for key in [key for key in store if key not in self.locked and key not in model.remembered]:
                del store[key]  # type: ignore[arg-type]

    def _still_locked(self, model: HATModel) -> dict[str, Tensor]:
        """Of `locked`, what tasks that were finished at the last `add` and are not forgotten now lock."""
        if model.forgotten == self.forgotten:
            return self.locked
        left = [task for task in model.remembered if task < self.finished]
        if not left and not any(gate.reserves for gate in model.gates.values()):
            return {}
        with having_used(model, left):
            now = {name: locked for name, _, locked in (*_parameters(model), *_buffers(model))}
        return {name: was & now[name][_rows(was)] for name, was in self.locked.items() if name in now}

    def _check_shapes(self, model: HATModel) -> None:
        now: dict[str, Tensor] = dict(model.named_parameters())
        now |= {f"body.{name}.masks": gate.masks for name, gate in model.gates.items()}
        for name, values in now.items():
            then = self.parameters.get(name, self.buffers.get(name))
            if then is not None and values[_rows(then)].shape != then.shape:
                got = f"{name} of {tuple(then.shape)}, now {tuple(values.shape)}"
                raise ValueError(f"probes: made before the model was grown; expected them added anew, got {got}")


@dataclass(frozen=True)
class Verification:
    """What `hat.verify` found.

    Attributes:
        drift: the largest absolute change of any logit, by task; inf where one turned NaN or inf.
        moved: the name of what changed first, or None: of locked parameters, in the order of the model; else of
            buffers; else of modules, in the order in which they answer.
        moved_by: the largest absolute change of a locked element of it, inf where it is gone; of a module, that of a
            sample of its outputs.
        kind: `"parameter"`; `"buffer"`, masks and what a task keeps for itself among them; or `"module"`, the first
            one that answers otherwise to the same inputs though no tensor has moved, as with a hook, another
            attribute or another module in its place, `"model"` where it is none of those inside. None: nothing moved.
    """

    drift: dict[int, float]
    moved: str | None
    moved_by: float
    kind: str | None = None

    @property
    def largest(self) -> float:
        """The largest drift of any task; 0.0 if nothing is forgotten."""
        return max(self.drift.values(), default=0.0)

    @property
    def exact(self) -> bool:
        """Every logit and all that it stands on kept its value."""
        return self.largest == 0 and self.moved is None

    def __str__(self) -> str:
        moved = "no locked parameter moved"
        if self.moved is not None:
            verb = "answers otherwise, by" if self.kind == "module" else "moved by"
            moved = f"{self.kind} {self.moved} {verb} {self.moved_by:g}"
        return f"largest drift {self.largest:g} over {len(self.drift)} tasks; {moved}"


@torch.no_grad()
def verify(model: HATModel, probes: Probes) -> Verification:
    """Compare every probed task with what it answered then: bit for bit, on the same device and batch shape.

    Args:
        model: after more training. Tasks that it has forgotten since are left out.
        probes: made by `Probes.add` after each `end_task`.

    Returns:
        The drift of every task, and the first parameter, buffer or module that moved.

    Raises:
        ValueError: there is no probe, or the model was grown since.
    """
    if not probes.tasks:
        raise ValueError("probes: expected at least one, got none")
    probes._check_shapes(model)
    known = {task: probe for task, probe in probes.tasks.items() if task not in model.forgotten}
    drift = {task: largest_change(_logits(model, task, p.inputs), p.logits) for task, p in known.items()}
    locked = probes._still_locked(model)
    for kind, store, standing in (
        ("parameter", probes.parameters, model.named_parameters()),
        ("buffer", probes.buffers, ((name, values) for name, values, _ in _buffers(model))),
    ):
        now = dict(standing)
        for name in (name for name in store if name in locked):
            by = _moved_by(now.get(name), store[name], locked[name])
            if by:
                return Verification(drift, name, by, kind)
    for task, change in drift.items():
        if change:
            return Verification(drift, *_module(model, task, known[task], change), "module")
    return Verification(drift, None, 0.0)


def _module(model: HATModel, task: int, probe: Probe, change: float) -> tuple[str, float]:
    """The module that answers otherwise, and by how much; a sample may miss it: then as the logits do."""
    found = first_difference(record(model, task, lambda: _logits(model, task, probe.inputs)), probe.calls)
    if found is None:
        return WHOLE, change
    now, then = found
    if now.sample.shape != then.sample.shape:
        return now.name, math.inf
    return now.name, largest_change(now.sample, then.sample) or change


def _parameters(model: HATModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, values, which elements are locked) of every parameter that a lock holds in part or altogether."""
    locks = model.active_locks()
    unread = {f"heads.{task}.weight": ~read_by_head(model, task) for task in model.remembered}
    for name, parameter in model.named_parameters():
        if parameter in locks:
            locked = (rate(locks[parameter], parameter) == 0).expand_as(parameter).clone()
            if name in unread:
                locked[:, unread[name]] = False
            yield name, parameter, locked


def _buffers(model: HATModel) -> Iterator[tuple[str, Tensor, Tensor]]:
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


def _moved_by(now: Tensor | None, then: Tensor, locked: Tensor) -> float:
    """The largest absolute change of a locked element; inf for a NaN or inf, or where there is nothing any more."""
    if now is None or now[_rows(then)].shape != then.shape:
        return math.inf
    now = now.detach()[_rows(then)]
    moved = (now != then) & ~(now.isnan() & then.isnan()) & locked
    if not moved.any():
        return 0.0
    now, then = now[moved], then[moved]
    change = _largest(now - then) if now.dtype.is_floating_point or now.dtype.is_complex else 0.0
    change = change or _largest(now.to(torch.complex128) - then.to(torch.complex128))  # numbers, or below float32
    return change if math.isfinite(change) else math.inf


def _largest(change: Tensor) -> float:
    return change.abs().max().item()


def _rows(values: Tensor) -> Any:
    """To index what may have more rows by now."""
    return slice(len(values)) if values.dim() else ...


def _copied(inputs: Any) -> Any:
    """Of a tensor or a tuple of them."""
    return tuple(map(_copied, inputs)) if isinstance(inputs, tuple) else inputs.clone()


def _logits(model: HATModel, task: int, inputs: Any) -> Tensor:
    was_training = model.training
    try:
        found: Tensor = model.eval()(inputs, task=task)
    finally:
        model.train(was_training)
    return found


def largest_change(now: Tensor, then: Tensor) -> float:
    """The largest absolute difference: exactly 0.0 only if every element is equal, inf for a NaN or inf."""
    if torch.equal(now, then):
        return 0.0
    change = (now - then).abs().max().item()
    return change if math.isfinite(change) else math.inf
