"""A smaller copy of a model, without the units that some tasks do not use."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from hat.conversion.body import Converted
from hat.conversion.trials import vary
from hat.network.network import Network
from hat.resizing.fitting import fit, fix, needed
from hat.resizing.resize import resize
from hat.resizing.trial import misfits
from hat.units.layout import Unfit
from hat.units.state import Finished


@torch.no_grad()
def shrunk(model: Network, tasks: Sequence[int]) -> Network:
    """A copy that keeps the units that some of these tasks uses, and the units that the network needs to be computed.

    For a converted network every value of the copy's graph is compared with the value of the model. This is done with
    weights and inputs that are all different, because the real ones could be equal. No number is drawn. One comparison
    is enough, because a unit that is gone changes the first node that reads it, see `hat.resizing.trial.misfits`. If a
    unit makes a difference by its absence, it stays in the copy, switched off.

    Args:
        model: the model; it is not changed.
        tasks: the ids of finished tasks; at least one.

    Returns:
        The copy, in evaluation mode.

    Raises:
        UnexplainedError: the copy computes something else, and no unit explains the difference.
    """
    is_used = torch.cat([(gate.masks[list(tasks)] != 0).any(0).cpu() for gate in model.gates.values()])
    fixed, varied_model = needed(model), copy.deepcopy(model).eval()
    vary(varied_model)
    while True:
        counts = fit(model, is_used.long(), fixed)
        misfit_units = _units_that_cannot_go(varied_model, counts, tasks)
        if misfit_units is None:
            break
        fix(model, misfit_units[counts[misfit_units] != 1], fixed)
    small_model = copy.deepcopy(model).eval()
    resize(small_model, counts)
    return small_model


def _units_that_cannot_go(model: Network, counts: Tensor, tasks: Sequence[int]) -> Tensor | None:
    """Try to shrink a copy of the model.

    Returns:
        The numbers of the units that make the copy compute something else for a task; None if all can go.
    """
    small_model = copy.deepcopy(model)
    try:
        resize(small_model, counts)
    except Unfit as unfit:
        return unfit.units
    if isinstance(model.body, Converted) and isinstance(small_model.body, Converted):
        for task in tasks:
            misfit_units = misfits(model.body, small_model.body, counts, Finished(task))
            if misfit_units is not None:
                return misfit_units
    return None
