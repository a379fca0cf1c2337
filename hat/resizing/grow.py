"""`hat.grow`: more free units, when a network runs out of them."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hat.conversion.body import Converted
from hat.conversion.trials import vary
from hat.network import moving
from hat.network.interrupt import interrupt_waits
from hat.network.movable import segments
from hat.network.network import Network
from hat.resizing.fitting import fit, fix, needed, numbers
from hat.resizing.resize import resize
from hat.resizing.trial import misfits
from hat.units.gate import Gate
from hat.units.layout import Unfit
from hat.units.per_task import PerTask, per_task
from hat.units.state import Finished
from hat.warnings import CapacityWarning

_SHOWN = 3  # names in a warning; of more, their number

By = int | float | Mapping[str, int | float]


def grow(model: Network, by: By) -> dict[str, int]:
    """Add free units to a network; finished tasks do not see them.

    Their logits stay the same to float32 rounding, as matmuls sum over more zeros, and keep every bit from then on. New
    weights are drawn as their layers draw them; those between a new unit and the rest may move, as those of any free
    unit. Parameters stay the same objects; gradients, and what optimizers made of `model.task_parameters()` or under
    `hat.guard` keep, grow with them. Norms over units go on as if there were as many as when a task was learned.

    Where a network takes units apart evenly, as heads of attention or groups of a convolution, every part gets as many,
    and what is taken apart together grows together: a little more than asked for may join.

    Args:
        model: at any time but between a forward pass and its backward.
        by: how many units every axis gets, > 0; a float for a share of those that it has; or one of both by the name of
            a gate, a key of `model.gates`.

    Returns:
        How many have joined, by the name of the gate, of all that have grown.

    Raises:
        TypeError: `model` is not a `HATModel`, or a number is none.
        ValueError: a number is not positive, there is no gate of a name, or one of those that were named cannot grow:
            something meets its units that nobody knows, or that is another function of more. Nothing is changed then.
            Where all axes were asked for, those that cannot are left as they are, with a `CapacityWarning`.
    """
    if not isinstance(model, Network):
        raise TypeError(f"model: expected a hat.HATModel, got {type(model).__name__}")
    wanted = _wanted(model, by)
    if not isinstance(by, Mapping):
        return grow_what_can(model, wanted)
    counts = _counts(model, wanted)
    joined = _joined(model, counts)
    for name in wanted:
        if not joined[name]:
            raise ValueError(
                f"{name}: cannot grow, as something depends on how many units it has, or nobody knows what"
            )
    return _grown(model, counts)


def grow_what_can(model: Network, wanted: Mapping[str, int]) -> dict[str, int]:
    """`grow` by numbers of units > 0, by the name of the gate; what cannot grow is left, with a `CapacityWarning`."""
    if not wanted:
        return {}
    counts = _counts(model, wanted)
    joined = _joined(model, counts)
    left = [name for name in wanted if not joined[name]]
    if left:
        some = ", ".join(left[:_SHOWN]) + (f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else "")
        warnings.warn(
            f"cannot grow: {some}; something depends on how many units there are", CapacityWarning, stacklevel=3
        )
    return _grown(model, counts)


def _grown(model: Network, counts: Tensor) -> dict[str, int]:
    """Grow; how many have joined each gate."""
    joined = {name: more for name, more in _joined(model, counts).items() if more}
    if joined:
        before = model.blocks()
        with interrupt_waits():  # half grown, the network would compute nothing
            done = resize(model, counts)
            moving.tell(model, done.changes, before, done.before)
    return joined


def grow_to(model: Network, units: Mapping[str, int]) -> bool:
    """Grow the axes of these names to these lengths, if each can grow to that very length.

    Args:
        model: left as it is where one cannot.
        units: at least as many as there are.
    """
    more = {name: number - model.gates[name].units for name, number in units.items()}
    more = {name: number for name, number in more.items() if number > 0}
    counts = _counts(model, more)
    joined = _joined(model, counts)
    if any(joined[name] != more.get(name, 0) for name in joined):
        return False
    resize(model, counts)
    return True


def _wanted(model: Network, by: By) -> dict[str, int]:
    """How many units each axis shall get at least."""
    given: Mapping[str, Any] = by if isinstance(by, Mapping) else dict.fromkeys(model.gates, by)
    found = {}
    for name, number in given.items():
        if name not in model.gates:
            raise ValueError(f"by: expected names of gates, {', '.join(model.gates)}, got {name!r}")
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"by: expected numbers, got {type(number).__name__}")
        if not 0 < number < math.inf:
            raise ValueError(f"by: expected numbers > 0, got {number}")
        found[name] = number if isinstance(number, int) else math.ceil(number * model.gates[name].units)
    return found


def _joined(model: Network, counts: Tensor) -> dict[str, int]:
    """How many join each gate, by its name."""
    parts = counts.split([gate.units for gate in model.gates.values()])
    return {name: int(part.sum()) - len(part) for name, part in zip(model.gates, parts, strict=True)}


@torch.no_grad()
def _counts(model: Network, wanted: Mapping[str, int]) -> Tensor:
    """How often every unit is there from now on: behind the last of each part of an axis as many others join."""
    fixed = needed(model)
    while True:
        counts = torch.ones_like(fixed, dtype=torch.int64)
        for (name, gate), first in zip(model.gates.items(), numbers(model.gates.values()).values(), strict=True):
            if name in wanted:
                _join(gate, counts[first : first + gate.units], wanted[name])
        counts = fit(model, counts, fixed, joining=True)
        if bool((counts == 1).all()) or (bad := _tried(model, counts)) is None:
            return counts
        fix(model, bad[counts[bad] != 1], fixed)


def _join(gate: Gate, counts: Tensor, number: int) -> None:
    parts = segments(gate)
    each = math.ceil(number / len(parts))
    for part in parts:
        counts[part[-1]] += each


def _tried(model: Network, counts: Tensor) -> Tensor | None:
    """On copies with one more task, which uses all units: the units that cannot grow, None if all can."""
    before = copy.deepcopy(model)
    vary(before)
    for gate in before.gates.values():
        gate.embedding.fill_(1)
    parts: list[Gate | PerTask] = [*before.gates.values(), *per_task(before.body).values()]
    for part in parts:
        part.commit()
    after = copy.deepcopy(before.eval())
    after.heads.append(torch.nn.Identity())  # of the task, as norms count them
    try:
        resize(after, counts)
    except Unfit as unfit:
        return unfit.units
    if isinstance(before.body, Converted) and isinstance(after.body, Converted):
        return misfits(before.body, after.body, counts, Finished(next(iter(before.gates.values())).tasks - 1))
    return None
