"""Measure that nothing is forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hat.life.model import HATModel
from hat.network.tolerance import largest_change
from hat.verification.probes import Probe, Probes, locked_buffers, logits_of, rows_of
from hat.verification.recording import WHOLE, first_difference, record

__all__ = ["ForgettingError", "Probe", "Probes", "Verification", "verify"]


class ForgettingError(RuntimeError):
    """A finished task answers differently, or a locked element has moved.

    Attributes:
        verification: the result of `hat.verify`.
    """

    def __init__(self, message: str, verification: Verification) -> None:
        super().__init__(message)
        self.verification = verification


@dataclass(frozen=True)
class Verification:
    """The result of `hat.verify`.

    Attributes:
        drift: the largest absolute change of any logit, by task; inf if a logit became NaN or inf.
        moved: the name of the first thing that changed, or None. Parameters come first, in the order of the model, then
            buffers, then modules in the order in which they end. If no module inside the model changed but the logits
            did, the name is `"model"`.
        moved_by: the largest absolute change of a locked element of the parameter or buffer, inf if the tensor is gone;
            of a module, the largest change of a sample of its outputs.
        kind: `"parameter"`; `"buffer"`, which includes masks and tensors that a task has for itself; or `"module"`, if
            no tensor has moved but the module has another output for the same inputs, because of a hook, a changed
            attribute or another module in its place. None: nothing moved.
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
        """Whether every logit is equal and nothing has moved."""
        return self.largest == 0 and self.moved is None

    def __str__(self) -> str:
        moved = "no locked parameter moved"
        if self.moved is not None:
            verb = "answers differently, by" if self.kind == "module" else "moved by"
            moved = f"{self.kind} {self.moved} {verb} {self.moved_by:g}"
        return f"largest drift {self.largest:g} over {len(self.drift)} tasks; {moved}"


@torch.no_grad()
def verify(model: HATModel, probes: Probes) -> Verification:
    """Compare the logits of every probed task with its probe, bit for bit, on the same device and batch shape.

    Args:
        model: the model after more training. Tasks that it has forgotten are left out.
        probes: made by `Probes.add` after each `end_task`.

    Returns:
        The drift of every task, and the first parameter, buffer or module that moved.

    Raises:
        ValueError: there is no probe, or the model was grown after the probes were made.
    """
    if not probes.tasks:
        raise ValueError("probes: expected at least one, got none")
    probes.check_shapes(model)
    remembered = {task: probe for task, probe in probes.tasks.items() if task not in model.forgotten}
    drift = {task: largest_change(logits_of(model, task, p.inputs), p.logits) for task, p in remembered.items()}
    locked = probes.still_locked(model)
    for kind, store, named_tensors in (
        ("parameter", probes.parameters, model.named_parameters()),
        ("buffer", probes.buffers, ((name, values) for name, values, _ in locked_buffers(model))),
    ):
        tensors = dict(named_tensors)
        for name in (name for name in store if name in locked):
            change = _moved_by(tensors.get(name), store[name], locked[name])
            if change:
                return Verification(drift, name, change, kind)
    for task, change in drift.items():
        if change:
            return Verification(drift, *_changed_module(model, task, remembered[task], change), "module")
    return Verification(drift, None, 0.0)


def _changed_module(model: HATModel, task: int, probe: Probe, change: float) -> tuple[str, float]:
    """The name of the first module whose output differs, and by how much.

    If its sample misses the difference, the difference is `change`, that of the logits.
    """
    difference = first_difference(record(model, task, lambda: logits_of(model, task, probe.inputs)), probe.calls)
    if difference is None:
        return WHOLE, change
    call, earlier = difference
    if call.sample.shape != earlier.sample.shape:
        return call.name, math.inf
    return call.name, largest_change(call.sample, earlier.sample) or change


def _moved_by(now: Tensor | None, then: Tensor, locked: Tensor) -> float:
    """The largest absolute change of a locked element; inf for a NaN or inf, or if the tensor is gone."""
    if now is None or now[rows_of(then)].shape != then.shape:
        return math.inf
    now = now.detach()[rows_of(then)]
    moved = (now != then) & ~(now.isnan() & then.isnan()) & locked
    if not moved.any():
        return 0.0
    now, then = now[moved], then[moved]
    change = _largest(now - then) if now.dtype.is_floating_point or now.dtype.is_complex else 0.0
    # Integers, and differences too small for the dtype, are compared in double precision.
    change = change or _largest(now.to(torch.complex128) - then.to(torch.complex128))
    return change if math.isfinite(change) else math.inf


def _largest(change: Tensor) -> float:
    return change.abs().max().item()
