"""How many copies of every unit a resized network needs, so that it can still be computed.

Some layers divide units evenly: all heads of attention have the same width, all groups of a convolution have the same
number of channels. If a task uses more units of one head than of another, some unused units stay, switched off.

Numbers of units: the gates of a network are counted through. With gates of 4 and 8 units, the first gate has units 0 to
3 and the second gate has units 4 to 11. `counts` holds a number for every unit: 0 if the unit goes, 1 if it stays, n if
n - 1 new units join behind it.

Example: one gate of 8 units is reshaped to 2 heads of 4 dimensions, so its layout has the rows [0, 1, 2, 3] and
[4, 5, 6, 7].

    shrink: the task uses units 0, 1, 2 and 5   counts [1, 1, 1, 0,  0, 1, 0, 0]   rows of length 3 and 1: uneven
    `fit` keeps units 4 and 6 in addition       counts [1, 1, 1, 0,  1, 1, 1, 0]   rows of length 3 and 3
    grow: one unit joins behind unit 7          counts [1, 1, 1, 1,  1, 1, 1, 2]   rows of length 4 and 5: uneven
    `fit` lets one join behind unit 3, too      counts [1, 1, 1, 2,  1, 1, 1, 2]   rows of length 5 and 5
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

_MOST_ROWS = 2**16
"""The units of a layout with more rows stay as they are, because evening out so many rows would take too long."""


class UnexplainedError(RuntimeError):
    """A network computes something else with other numbers of units, and no unit explains the difference."""


def first_units(gates: Iterable[Gate]) -> dict[Gate, int]:
    """The number of every gate's first unit, counted through all gates in this order."""
    first_by_gate, next_unit = {}, 0
    for gate in gates:
        first_by_gate[gate] = next_unit
        next_unit += gate.units
    return first_by_gate


def needed(model: Network) -> Tensor:
    """[units] bool through all gates, the units whose counts must stay 1."""
    resizable_gates = resizable(model)
    in_fixed_gate = torch.cat([torch.full((gate.units,), gate not in resizable_gates) for gate in model.gates.values()])
    return in_fixed_gate | model.body.needed if isinstance(model.body, Converted) else in_fixed_gate


def fit(model: Network, counts: Tensor, fixed: Tensor, *, joining: bool = False) -> Tensor:
    """Change `counts` as little as possible, so that the network can still be computed.

    Args:
        model: the network.
        counts: [units] int64 through all gates: 0 if the unit goes, 1 if it stays, n if n - 1 new units join behind it.
        fixed: [units] bool, the units whose counts must stay 1.
        joining: more units may join to even out rows.

    Returns:
        New counts, like `counts`. At least one unit of every gate stays. If rows cannot be evened out, no unit of the
        layout goes or joins.
    """
    segment, counts, fixed = _segments(model), counts.clone(), fixed.clone()
    layouts_to_even = list(_even_layouts(model, segment))
    # Without a limit on joining, two layouts of the same units could make each other longer for ever.
    most_copies = int(counts.max()) if joining else 0
    while True:
        before = counts.clone()
        counts[fixed] = 1
        for gate, first in first_units(model.gates.values()).items():
            counts_of_gate = counts[first : first + gate.units]
            if not counts_of_gate.any():
                counts_of_gate[0] = 1
        for layout, dims_of_rows in layouts_to_even:
            if joining and any(_is_even(layout, dim, counts) for dim in dims_of_rows):
                continue
            if not _evened(layout, dims_of_rows[0], counts, fixed, segment, most_copies):
                fixed[layout.numbers] = True
        counts[fixed] = 1
        if torch.equal(counts, before):
            return counts


def fix(model: Network, units: Tensor, fixed: Tensor) -> None:
    """Mark all units of some gates as fixed.

    Args:
        model: the network.
        units: int64, the numbers of units that make the network compute something else if they go or others join. All
            units of their gates become fixed.
        fixed: [units] bool through all gates; changed in place.

    Raises:
        UnexplainedError: `units` is empty.
    """
    if not len(units):
        raise UnexplainedError("the network computes something else with other numbers of units; no unit explains it")
    for gate, first in first_units(model.gates.values()).items():
        if bool(((units >= first) & (units < first + gate.units)).any()):
            fixed[first : first + gate.units] = True


def _even_layouts(model: Network, segment: Tensor) -> Iterator[tuple[Layout, tuple[int, ...]]]:
    """The layouts whose rows must have the same length.

    Yields:
        A layout, and dimensions: along one of them the rows must have the same length. The best choice comes first.
    """
    first = first_units(model.gates.values())
    if isinstance(model.body, Converted):
        for layout in layouts_in(list(model.body.layouts.values())):
            if len(layout.varying) > 1:
                best_dim = _dimension(layout, segment)
                yield layout, (best_dim, *(dim for dim in layout.varying if dim != best_dim))
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
    """[units] int64, the segment of every unit (see `Gate.segments`), counted through all gates."""
    numbers_by_gate, segments_before = [], 0
    for gate in model.gates.values():
        numbers_of_gate = torch.zeros(gate.units, dtype=torch.int64) if gate.segments is None else gate.segments
        numbers_by_gate.append(numbers_of_gate + segments_before)
        segments_before += int(numbers_of_gate.max()) + 1
    return torch.cat(numbers_by_gate)


def _dimension(layout: Layout, segment: Tensor) -> int:
    """The dimension along which a layout should be evened out.

    The last dimension along which all units are of one segment; if there is none, the last dimension along which units
    differ.
    """
    segments = torch.where(layout.units < 0, -1, segment[layout.units.clamp(min=0)])
    dims_of_one_segment = [dim for dim in layout.varying if bool((segments == segments.narrow(dim, 0, 1)).all())]
    return (dims_of_one_segment or list(layout.varying))[-1]


def _of_segments(gate: Gate, first: int) -> Iterator[tuple[Layout, tuple[int, ...]]]:
    """The segments of a gate as the rows of a layout, if they are equally long now.

    Args:
        gate: a gate with segments.
        first: the number of its first unit.
    """
    assert gate.segments is not None
    places = gate.segments.argsort(stable=True)
    lengths = gate.segments.unique(return_counts=True)[1]
    if bool((lengths == lengths[0]).all()):
        units = (places + first).view(len(lengths), -1)
        yield Layout(units.shape, units), (1,)


def _is_even(layout: Layout, dim: int, counts: Tensor) -> bool:
    """Whether all rows along `dim` have the same length with these counts."""
    lengths = layout.counted(counts).sum(dim)
    return bool((lengths == lengths.flatten()[0]).all())


def _evened(layout: Layout, dim: int, counts: Tensor, fixed: Tensor, segment: Tensor, most_copies: int) -> bool:
    """Let units stay, or new units join, until all rows are as long as the longest row.

    A short row first keeps a unit that would go. The unit is of the segment that keeps the fewest units so far, because
    otherwise rows along another dimension could become uneven. If no unit of a short row would go, one new unit joins.

    Args:
        layout: the units of a value.
        dim: rows lie along this dimension.
        counts: [units] int64 through all gates; changed in place.
        fixed: [units] bool, the units whose counts must stay 1.
        segment: [units], see `_segments`.
        most_copies: no unit gets a higher count by joining. If every unit had this count, the rows would be even along
            every dimension.

    Returns:
        Whether the rows are even now.
    """
    rows = layout.units.movedim(dim, -1).reshape(-1, layout.units.shape[dim])
    if len(rows) > _MOST_ROWS:
        return False
    longest: int | None = None
    while True:
        lengths = torch.where(rows < 0, 1, counts[rows.clamp(min=0)]).sum(1)
        longest = int(lengths.max()) if longest is None else longest
        if bool((lengths > longest).any()):  # a unit is in several rows and made a long one longer
            return False
        is_short = lengths < longest
        if not is_short.any():
            return True
        is_gone = (rows >= 0) & (counts[rows.clamp(min=0)] == 0)
        if is_gone[is_short].any(1).all():
            kept_in_segment = torch.zeros(int(segment.max()) + 1, dtype=torch.int64).index_add(0, segment, counts)
            rank = torch.where(is_gone, kept_in_segment[segment[rows.clamp(min=0)]], int(counts.sum()) + 1)[is_short]
            counts[rows[is_short].gather(1, rank.argmin(1, keepdim=True)).flatten()] = 1
            continue
        unit_of_element = rows.clamp(min=0)
        may_grow = (rows >= 0) & ~fixed[unit_of_element] & (counts[unit_of_element] < most_copies)
        if not may_grow[is_short].any(1).all():
            return False
        counts[_first_of_each(rows[is_short].flip(1), may_grow[is_short].flip(1))] += 1


def _first_of_each(units: Tensor, which: Tensor) -> Sequence[int]:
    """The first unit of each row for which `which` holds, each unit once."""
    return units.gather(1, which.int().argmax(1, keepdim=True)).flatten().unique().tolist()
