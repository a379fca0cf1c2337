"""A copy of a model without the units that some tasks do not use."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from hat.conversion.body import Converted
from hat.exporting.errors import ExportError
from hat.model import HATModel
from hat.resizing.fitting import fit, fix, needed
from hat.resizing.layout import Unfit
from hat.resizing.resize import resize
from hat.resizing.trial import misfits


@torch.no_grad()
def shrunk(model: HATModel, tasks: Sequence[int]) -> HATModel:
    """A copy with the units alone that one of these tasks uses, and those without which the rest cannot be computed.

    A converted network is tried on what it was converted on, value by value; units whose absence makes a difference
    stay, switched off.

    Args:
        model: it is left as it is.
        tasks: finished ones, at least one.

    Raises:
        ExportError: it computes something else, and no unit can be blamed.
    """
    on = torch.cat([(gate.masks[list(tasks)] != 0).any(0).cpu() for gate in model.gates.values()])
    fixed = needed(model)
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        while True:
            counts = fit(model, on.long(), fixed)
            small = copy.deepcopy(model)
            bad = _tried(model, small, counts, tasks)
            if bad is None:
                return small
            blamed = bad[counts[bad] != 1]
            if not len(blamed):
                raise ExportError(
                    "the network computes something else without units that it does not use, nobody knows why"
                )
            fix(model, blamed, fixed)
    finally:
        for module, mode in training.items():
            module.training = mode


def _tried(model: HATModel, small: HATModel, counts: Tensor, tasks: Sequence[int]) -> Tensor | None:
    """Resize the copy; the units that cannot go, None if all can."""
    try:
        resize(small, counts)
    except Unfit as unfit:
        return unfit.units
    if isinstance(model.body, Converted) and isinstance(small.body, Converted):
        for task in tasks:
            bad = misfits(model.body, small.body, counts, task)
            if bad is not None:
                return bad
    return None
