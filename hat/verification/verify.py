"""Measure that nothing is forgotten."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hat.arguments import check_arguments
from hat.life.model import HATModel
from hat.network import seals
from hat.network.tolerance import largest_change
from hat.network.verdict import ForgettingError, Verification
from hat.verification.probes import Probe, Probes, locked_buffers, logits_of, rows_of
from hat.verification.recording import WHOLE, first_difference, record

__all__ = ["ForgettingError", "Probe", "Probes", "Verification", "verify"]


@torch.no_grad()
def verify(model: HATModel, probes: Probes | None = None) -> Verification:
    """Compare what finished tasks use with its seals, and the logits of every probed task with its probe.

    Logits are compared bit for bit, on the same device and batch shape. The seals also cover tasks without a probe, see
    `HATModel.moved`. A probe finds more than a seal: which logits differ and by how much, and modules that have changed
    although no tensor has.

    Args:
        model: the model after more training. Tasks that it has forgotten are left out.
        probes: made by `Probes.add` after each `end_task`. None: only the seals are compared, and no task has a drift.

    Returns:
        The drift of every probed task, and the first parameter, buffer or module that moved.

    Raises:
        TypeError: `model` is not a `HATModel`, or `probes` are no `Probes`.
        ValueError: there is no probe in `probes`, or the model was grown after the probes were made.
    """
    check_arguments(verify, locals())
    verification = Verification({}, None, 0.0) if probes is None else _compared(model, probes)
    if verification.moved is None and (name := model.moved()) is not None:
        return Verification(verification.drift, *seals.described(model, name))
    return verification


def _compared(model: HATModel, probes: Probes) -> Verification:
    """What the probes tell, see `verify`."""
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
