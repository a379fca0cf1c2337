"""`hat.grow`: add free units to a network that runs out of them.

Example: `hat.grow(model, {"linear1.gate": 2})` where `linear1` has 4 units. `_counts` asks for [1, 1, 1, 3]: two units
join behind the last unit. `fit` adds units if the network needs even parts, see `hat.resizing.fitting`. The growth is
tried on a copy. If the copy computes something else, the units to blame are fixed, and the search starts again without
them. At last `resize` makes `linear1.weight` [4, K] to [6, K], and the next layer's weight [N, 4] to [N, 6].
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hat.arguments import got
from hat.conversion.body import Converted
from hat.conversion.trials import vary
from hat.network import data_parallel, moving, seals
from hat.network.interrupt import interrupt_waits
from hat.network.movable import segments
from hat.network.network import Network
from hat.network.replicas import agree_to_change, share_change
from hat.resizing.fitting import first_units, fit, fix, needed
from hat.resizing.resize import resize
from hat.resizing.trial import misfits
from hat.tracing.different import AllDifferent
from hat.units.change import Changes
from hat.units.gate import Gate
from hat.units.layout import Unfit
from hat.units.per_task import PerTask, per_task
from hat.units.state import Finished
from hat.warnings import CapacityWarning

_MOST = 2**31  # units; more than that is a mistake
_SHOWN = 3  # how many names a warning lists

By = int | float | Mapping[str, int | float]


def grow(model: Network, by: By) -> dict[str, int]:
    """Add free units to a network. Finished tasks do not use them.

    Growing changes the logits of finished tasks by float32 rounding only, because matmuls sum over more zeros.
    Afterwards the logits keep every bit. Each layer draws the weights of new units as it draws its weights at the
    start. The weights between a new unit and other units may move, like those of any free unit. Norms over units
    compute for each task as if there were as many units as when the task was learned.

    Parameters stay the same objects. Their gradients grow with them, and so does the state of every optimizer that was
    made from `model.task_parameters()` or is under `hat.guard`.

    If a network divides units evenly, as into heads of attention or groups of a convolution, every part gets the same
    number of new units, and gates that are divided together grow together. So a few more units may join than were asked
    for.

    With a process group, all its processes call this together, and the values that the first process draws are
    everyone's.

    Args:
        model: the model, at any time except between a forward pass and its backward pass: that backward pass raises a
            `RuntimeError`.
        by: how many units every gate gets: an int > 0, or a float > 0 for a share of its present units. Or a mapping
            from names of gates (keys of `model.gates`) to such numbers; the other gates get none.

    Returns:
        How many units have joined each gate that has grown, by the name of the gate.

    Raises:
        TypeError: `model` is not a `HATModel`, or a number is not an int or a float.
        ValueError: a number is not positive and finite, no gate has the name, or a gate of the mapping cannot grow. A
            gate cannot grow if it is not known what uses its units, if the network would compute something else, or if
            a parameter along it was frozen when the first task began. The model is unchanged then. Without a mapping,
            gates that cannot grow stay as they are, with a `CapacityWarning`.
        RuntimeError: another process of the model's group does not come, calls something else or has other parameters.

    Warns:
        DriftWarning: something that finished tasks use has moved since it was locked, see `HATModel.moved`.
    """
    if not isinstance(model, Network):
        raise TypeError(f"model: expected a hat.HATModel, got {type(model).__name__}")
    units_to_add = _units_to_add(model, by)
    if not isinstance(by, Mapping):
        return grow_what_can(model, units_to_add)
    counts = _counts(model, units_to_add, _fixed(model))
    joined = _joined(model, counts)
    for name in units_to_add:
        if model.gates[name].keeps_places:
            raise ValueError(
                f"{name}: cannot grow; a parameter along it came frozen, keeps its places, and would not learn new ones"
            )
        if not joined[name]:
            raise ValueError(
                f"{name}: cannot grow; something would compute another function with more units, or is not known"
            )
    return _grown(model, counts, stacklevel=3)


def grow_what_can(model: Network, units_to_add: Mapping[str, int]) -> dict[str, int]:
    """Grow every gate that can; name the others in a `CapacityWarning`.

    Args:
        model: the model.
        units_to_add: how many units > 0 each gate gets, by the name of the gate.

    Returns:
        How many units have joined each gate that has grown, by the name of the gate.
    """
    if not units_to_add:
        return {}
    counts = _counts(model, units_to_add, _fixed(model))
    joined = _joined(model, counts)
    unchanged = [name for name in units_to_add if not joined[name]]
    if unchanged:
        listed = ", ".join(unchanged[:_SHOWN]) + (
            f" and {len(unchanged) - _SHOWN} more" if len(unchanged) > _SHOWN else ""
        )
        warnings.warn(
            f"cannot grow: {listed}; something is frozen, not known, or would compute another function with more units",
            CapacityWarning,
            stacklevel=3,
        )
    return _grown(model, counts, stacklevel=4)


def _grown(model: Network, counts: Tensor, stacklevel: int) -> dict[str, int]:
    """Grow the model; returns how many units have joined each gate that has grown, by the name of the gate."""
    joined = {name: added for name, added in _joined(model, counts).items() if added}
    agree_to_change(model, "hat.grow", lambda: joined)
    if joined:
        before = model.blocks()
        with interrupt_waits(), seals.opened(model, stacklevel):  # a half-grown network cannot be computed
            resized = resize(model, counts)
            moving.tell(model, resized.changes, before, resized.before)
            data_parallel.follow_shapes(model)
        share_change(model, "hat.grow")
    return joined


def counts_to(model: Network, units: Mapping[str, int]) -> Tensor | None:
    """The counts with which gates grow to given numbers of units, see `hat.resizing.resize.resize`.

    Args:
        model: the model; it is not changed.
        units: the number of units of each gate that grows, by the name of the gate; above the present number.

    Returns:
        [units] int64 through all gates; None if some gate cannot get exactly its number.
    """
    missing = {name: number - model.gates[name].units for name, number in units.items()}
    counts = _counts(model, missing, needed(model))
    joined = _joined(model, counts)
    return counts if all(joined[name] == missing.get(name, 0) for name in joined) else None


def _units_to_add(model: Network, by: By) -> dict[str, int]:
    """How many units each gate gets at least, by its name.

    Raises:
        TypeError, ValueError: as of `grow`.
    """
    requested: Mapping[str, Any] = by if isinstance(by, Mapping) else dict.fromkeys(model.gates, by)
    units_to_add = {}
    for name, number in requested.items():
        if name not in model.gates:
            raise ValueError(f"by: expected names of gates, {', '.join(model.gates)}, got {got(name)}")
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"by: expected numbers, got {type(number).__name__}")
        if not 0 < number < math.inf:
            raise ValueError(f"by: expected numbers > 0, got {number}")
        units = number if isinstance(number, int) else number * model.gates[name].units
        if units > _MOST:
            raise ValueError(f"by: expected at most {_MOST:,} new units, got {got(number)} for {name}")
        units_to_add[name] = math.ceil(units)
    return units_to_add


def _joined(model: Network, counts: Tensor) -> dict[str, int]:
    """How many units join each gate with these counts, by the name of the gate."""
    parts = counts.split([gate.units for gate in model.gates.values()])
    return {name: int(part.sum()) - len(part) for name, part in zip(model.gates, parts, strict=True)}


@torch.no_grad()
def _counts(model: Network, units_to_add: Mapping[str, int], fixed: Tensor) -> Tensor:
    """The counts with which a model grows; new units join behind the last unit of each segment of a gate.

    Args:
        model: the model.
        units_to_add: how many units each gate gets, by its name.
        fixed: [units] bool through all gates, the units whose counts must stay 1; more become fixed in place.

    Returns:
        [units] int64 through all gates; 1 everywhere if no gate can grow.
    """
    while True:
        counts = torch.ones_like(fixed, dtype=torch.int64)
        for (name, gate), first in zip(model.gates.items(), first_units(model.gates.values()).values(), strict=True):
            if name in units_to_add:
                _join(gate, counts[first : first + gate.units], units_to_add[name])
        counts = fit(model, counts, fixed, joining=True)
        if bool((counts == 1).all()) or (misfit_units := _units_that_cannot_grow(model, counts)) is None:
            return counts
        fix(model, misfit_units[counts[misfit_units] != 1], fixed)


def _fixed(model: Network) -> Tensor:
    """[units] bool through all gates, the units that no other unit may join."""
    keep_places = [torch.full((gate.units,), gate.keeps_places) for gate in model.gates.values()]
    return needed(model) | torch.cat(keep_places)


def _join(gate: Gate, counts: Tensor, number: int) -> None:
    """Let `number` units or a few more join a gate, the same number in each segment.

    Args:
        gate: the gate.
        counts: [units of the gate] int64; changed in place.
        number: > 0.
    """
    segments_of_gate = segments(gate)
    units_per_segment = math.ceil(number / len(segments_of_gate))
    for segment in segments_of_gate:
        counts[segment[-1]] += units_per_segment


def _units_that_cannot_grow(model: Network, counts: Tensor) -> Tensor | None:
    """Try to grow a copy of the model, which gets one more task that uses all units.

    No number is drawn that could change the result. The weights of the copy, the inputs and the weights of new units
    are all different, none of them 0, whatever the layers would draw for new units. One comparison is enough, because
    it compares every value of the graph, see `misfits`: a new unit that reached a value of the additional task, or an
    old weight that lies elsewhere now, shows in the first node that it reaches, before anything can cancel it.

    Returns:
        The numbers of the units that make the copy compute something else; None if it computes the same.
    """
    before = copy.deepcopy(model)
    vary(before)
    for gate in before.gates.values():
        gate.embedding.fill_(1)
    parts: list[Gate | PerTask] = [*before.gates.values(), *per_task(before.body).values()]
    for part in parts:
        part.commit()
    after = copy.deepcopy(before.eval())
    after.heads.append(torch.nn.Identity())  # the head of the additional task, because norms count tasks by heads
    try:
        _fill(resize(after, counts).changes)
    except Unfit as unfit:
        return unfit.units
    if isinstance(before.body, Converted) and isinstance(after.body, Converted):
        return misfits(before.body, after.body, counts, Finished(next(iter(before.gates.values())).tasks - 1))
    return None


def _fill(changes: Changes) -> None:
    """Give new units of a trial weights between 1 and 2 that are all different: a layer may start with zeros."""
    numbers = AllDifferent()
    for parameter, listed in changes.items():
        for change in listed:
            values = (1 + numbers.take(parameter.shape)).to(parameter)
            parameter.data = torch.where(change.mask(parameter), values, parameter.data)
