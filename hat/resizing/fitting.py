"""How many there may be of every unit: as asked for, but evenly where a network takes units apart evenly.

A head of attention has as many dimensions as the next one, a group of a convolution as many channels. Where a task uses
more of one than of the other, some units that it does not use stay, switched off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from hat.conversion.body import Converted
from hat.network.movable import groups_along, resizable
from hat.network.network import Network
from hat.units.gate import Gate
from hat.units.layout import Layout, layouts_in

_MOST = 2**16
"""Rows of places that are evened out one by one; beyond that they stay as they are."""


class UnexplainedError(RuntimeError):
    """A network computes something else with other numbers of units, and no unit can be blamed."""


def numbers(gates: Iterable[Gate]) -> dict[Gate, int]:
    """The number of every gate's first unit, counted through all of them."""
    found, first = {}, 0
    for gate in gates:
        found[gate] = first
        first += gate.units
    return found


def needed(model: Network) -> Tensor:
    """[units] bool, through all gates: none of these may go, and none may join them."""
    can = resizable(model)
    found = torch.cat([torch.full((gate.units,), gate not in can) for gate in model.gates.values()])
    return found | model.body.needed if isinstance(model.body, Converted) else found


def fit(model: Network, counts: Tensor, fixed: Tensor, *, joining: bool = False) -> Tensor:
    """The least change of `counts` with which the network can still be computed.

    Args:
        counts: [units] int64 through all gates: 0 for a unit that is to go, 1 for one that stays, n where n - 1 join.
        fixed: [units] bool, these stay as they are.
        joining: units may join where there are not enough.

    Returns:
        As `counts`. Units that were to go stay where others of their head or group do, and one of every gate at least;
        where none is left to stay, all do.
    """
    segment, counts, fixed = _segments(model), counts.clone(), fixed.clone()
    rules = list(_even(model, segment))
    most = int(counts.max()) if joining else 0  # else two layouts of the same units could outgrow each other for ever
    while True:
        before = counts.clone()
        counts[fixed] = 1
        for gate, first in numbers(model.gates.values()).items():
            own = counts[first : first + gate.units]
            if not own.any():
                own[0] = 1
        for layout, dims in rules:
            if joining and any(_is_even(layout, dim, counts) for dim in dims):
                continue
            if not _evened(layout, dims[0], counts, fixed, segment, most):
                fixed[layout.numbers] = True
        counts[fixed] = 1
        if torch.equal(counts, before):
            return counts


def fix(model: Network, units: Tensor, fixed: Tensor) -> None:
    """Let all units of the gates of these stay as they are.

    Args:
        model: whose gates.
        units: numbers of units without which, or with more of which, the network computes something else.
        fixed: [units] bool, written to.

    Raises:
        UnexplainedError: there are none, so something else is wrong.
    """
    if not len(units):
        raise UnexplainedError("the network computes something else with other numbers of units, and nobody knows why")
    for gate, first in numbers(model.gates.values()).items():
        if bool(((units >= first) & (units < first + gate.units)).any()):
            fixed[first : first + gate.units] = True


def _even(model: Network, segment: Tensor) -> Iterator[tuple[Layout, tuple[int, ...]]]:
    """Layouts, and the dimensions along one of which all their rows must have the same length, the best first."""
    first = numbers(model.gates.values())
    if isinstance(model.body, Converted):
        for layout in layouts_in(list(model.body.layouts.values())):
            if len(layout.varying) > 1:
                best = _dimension(layout, segment)
                yield layout, (best, *(dim for dim in layout.varying if dim != best))
    else:
        for gate in model.gates.values():
            if gate.segments is not None:
                yield from _of_segments(gate, first[gate])
    for gate, start in first.items():
        for member in gate.members:
            if (groups := groups_along(gate, member)) > 1:
                units = torch.arange(start, start + gate.units).repeat_interleave(member.repeat).view(groups, -1)
                yield Layout(units.shape, units), (1,)


def _segments(model: Network) -> Tensor:
    """[units] a number for each segment of each gate, see `Gate.segments`."""
    found, used = [], 0
    for gate in model.gates.values():
        own = torch.zeros(gate.units, dtype=torch.int64) if gate.segments is None else gate.segments.cpu()
        found.append(own + used)
        used += int(own.max()) + 1
    return torch.cat(found)


def _dimension(layout: Layout, segment: Tensor) -> int:
    """The last one along which units are all of one segment; the last one where there is none such."""
    marks = torch.where(layout.units < 0, -1, segment[layout.units.clamp(min=0)])
    alike = [dim for dim in layout.varying if bool((marks == marks.narrow(dim, 0, 1)).all())]
    return (alike or list(layout.varying))[-1]


def _of_segments(gate: Gate, first: int) -> Iterator[tuple[Layout, tuple[int, ...]]]:
    assert gate.segments is not None
    places = gate.segments.cpu().argsort(stable=True)
    lengths = gate.segments.unique(return_counts=True)[1]
    if bool((lengths == lengths[0]).all()):
        units = (places + first).view(len(lengths), -1)
        yield Layout(units.shape, units), (1,)


def _is_even(layout: Layout, dim: int, counts: Tensor) -> bool:
    lengths = layout.counted(counts).sum(dim)
    return bool((lengths == lengths.flatten()[0]).all())


def _evened(layout: Layout, dim: int, counts: Tensor, fixed: Tensor, segment: Tensor, most: int) -> bool:
    """Let units stay, or others join, until all rows are as long as the longest; False where that cannot be.

    Those stay of whose segments the fewest do: what is even along one dimension would else be uneven along another.
    Others join until there are `most` of each unit; so many of every one would be even along any dimension.
    """
    units = layout.units.movedim(dim, -1).reshape(-1, layout.units.shape[dim])
    if len(units) > _MOST:
        return False
    longest: int | None = None
    while True:
        lengths = torch.where(units < 0, 1, counts[units.clamp(min=0)]).sum(1)
        longest = int(lengths.max()) if longest is None else longest
        if bool((lengths > longest).any()):  # units are in several rows, and one more in one is one more in others
            return False
        short = lengths < longest
        if not short.any():
            return True
        gone = (units >= 0) & (counts[units.clamp(min=0)] == 0)
        if gone[short].any(1).all():
            stay = torch.zeros(int(segment.max()) + 1, dtype=torch.int64).index_add(0, segment, counts)
            rank = torch.where(gone, stay[segment[units.clamp(min=0)]], int(counts.sum()) + 1)[short]
            counts[units[short].gather(1, rank.argmin(1, keepdim=True)).flatten()] = 1
            continue
        here = units.clamp(min=0)
        grows = (units >= 0) & ~fixed[here] & (counts[here] < most)
        if not grows[short].any(1).all():
            return False
        counts[_first_of_each(units[short].flip(1), grows[short].flip(1))] += 1


def _first_of_each(units: Tensor, which: Tensor) -> Sequence[int]:
    return units.gather(1, which.int().argmax(1, keepdim=True)).flatten().unique().tolist()
