"""Measuring that nothing is forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hat.life.model import HATModel
from hat.network.tolerance import largest_change
from hat.verification.probes import Probe, Probes, logits_of, rows_of, standing_buffers
from hat.verification.recording import WHOLE, first_difference, record

__all__ = ["ForgettingError", "Probe", "Probes", "Verification", "verify"]


class ForgettingError(RuntimeError):
    """A finished task answers otherwise, or what it stands on has moved.

    Attributes:
        verification: what `hat.verify` found.
    """

    def __init__(self, message: str, verification: Verification) -> None:
        super().__init__(message)
        self.verification = verification


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
    probes.check_shapes(model)
    known = {task: probe for task, probe in probes.tasks.items() if task not in model.forgotten}
    drift = {task: largest_change(logits_of(model, task, p.inputs), p.logits) for task, p in known.items()}
    locked = probes.still_locked(model)
    for kind, store, standing in (
        ("parameter", probes.parameters, model.named_parameters()),
        ("buffer", probes.buffers, ((name, values) for name, values, _ in standing_buffers(model))),
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
    found = first_difference(record(model, task, lambda: logits_of(model, task, probe.inputs)), probe.calls)
    if found is None:
        return WHOLE, change
    now, then = found
    if now.sample.shape != then.sample.shape:
        return now.name, math.inf
    return now.name, largest_change(now.sample, then.sample) or change


def _moved_by(now: Tensor | None, then: Tensor, locked: Tensor) -> float:
    """The largest absolute change of a locked element; inf for a NaN or inf, or where there is nothing any more."""
    if now is None or now[rows_of(then)].shape != then.shape:
        return math.inf
    now = now.detach()[rows_of(then)]
    moved = (now != then) & ~(now.isnan() & then.isnan()) & locked
    if not moved.any():
        return 0.0
    now, then = now[moved], then[moved]
    change = _largest(now - then) if now.dtype.is_floating_point or now.dtype.is_complex else 0.0
    change = change or _largest(now.to(torch.complex128) - then.to(torch.complex128))  # numbers, or below float32
    return change if math.isfinite(change) else math.inf


def _largest(change: Tensor) -> float:
    return change.abs().max().item()
