"""A copy of a model without the units that some tasks do not use."""

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
    """A copy with the units alone that one of these tasks uses, and those without which the rest cannot be computed.

    A converted network is tried value by value, with other weights and inputs than its own, which could be all alike;
    units whose absence makes a difference stay, switched off.

    Args:
        model: it is left as it is.
        tasks: finished ones, at least one.

    Raises:
        UnexplainedError: it computes something else, and no unit can be blamed.
    """
    on = torch.cat([(gate.masks[list(tasks)] != 0).any(0).cpu() for gate in model.gates.values()])
    fixed, varied = needed(model), copy.deepcopy(model).eval()
    vary(varied)
    while True:
        counts = fit(model, on.long(), fixed)
        bad = _tried(varied, counts, tasks)
        if bad is None:
            break
        fix(model, bad[counts[bad] != 1], fixed)
    small = copy.deepcopy(model).eval()
    resize(small, counts)
    return small


def _tried(model: Network, counts: Tensor, tasks: Sequence[int]) -> Tensor | None:
    """Resize a copy; the units that cannot go, None if all can."""
    small = copy.deepcopy(model)
    try:
        resize(small, counts)
    except Unfit as unfit:
        return unfit.units
    if isinstance(model.body, Converted) and isinstance(small.body, Converted):
        for task in tasks:
            bad = misfits(model.body, small.body, counts, Finished(task))
            if bad is not None:
                return bad
    return None
