"""Where the units lie in a tensor, before and after some units have gone and others have joined.

Example: a flatten of maps with 2 pixels per channel makes a tensor [2, 6] of 3 channels: the units of `Layout` are
[[0, 0, 1, 1, 2, 2]]. `counts` says how many units each unit becomes: [2, 0, 1] means that a new unit joins behind
unit 0 and unit 1 goes. Then

    counted   [[2, 2, 0, 0, 1, 1]]    how often every element is there afterwards
    along     1                       the dimension whose length changes, from 6 to 6
    index     [[0, 1, 0, 1, 4, 5]]    the place that each new place gets its value from: unit 0 twice, then unit 2
    copies    [[0, 0, 1, 1, 0, 0]]    0 for a unit that was there, 1 for the unit that joined
    resized   [[0, 0, 1, 1, 2, 2]]    the new numbers of the units

The two pixels of a channel stay together: [0, 1, 0, 1], not [0, 0, 1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


class Unfit(Exception):
    """The units of a tensor cannot get these counts, because the result would not be a rectangular tensor.

    Attributes:
        units: the numbers of the units of that tensor.
    """

    def __init__(self, units: Tensor) -> None:
        super().__init__(f"{len(units)} units do not fit")
        self.units = units


@dataclass(frozen=True, eq=False)
class Layout:
    """The unit of every element of a tensor.

    Attributes:
        shape: the shape of the tensor.
        units: int64, the number of the unit that every element belongs to, -1 if it belongs to none. `units` has as
            many dimensions as the tensor. A dimension along which the numbers do not change has length 1.
    """

    shape: torch.Size
    units: Tensor

    @property
    def varying(self) -> tuple[int, ...]:
        """The dimensions along which units differ."""
        return tuple(dim for dim, length in enumerate(self.units.shape) if length > 1)

    def counted(self, counts: Tensor) -> Tensor:
        """How often every element is there afterwards. An element that belongs to no unit is there once."""
        return torch.where(self.units < 0, 1, counts[self.units.clamp(min=0)])

    def along(self, counts: Tensor) -> int | None:
        """The dimension along which units go and join; None if all counts are 1.

        Raises:
            Unfit: along every dimension, the lengths of the result would differ from line to line.
        """
        counted = self.counted(counts)
        if bool((counted == 1).all()):
            return None
        dims = self.varying
        for dim in reversed(dims):
            lengths = counted.sum(dim)
            if bool((lengths == lengths.flatten()[0]).all()):
                return dim
        raise Unfit(self.numbers)

    @property
    def numbers(self) -> Tensor:
        """The numbers of the units in the tensor, every number once."""
        numbers = self.units.unique()
        return numbers[numbers >= 0]

    def index(self, dim: int, counts: Tensor) -> tuple[Tensor, Tensor]:
        """(places, copies): the old place along `dim` that comes to every new place, and the number of its copy.

        Both have the shape of `units`, except for the length of `dim`. Copy 0 is the unit that was there; copies 1, 2,
        ... have joined. Elements in a row that belong to one unit, as the pixels of a channel behind a flatten, stay
        together.

        Raises:
            Unfit: see `along`.
        """
        counted, units = (
            values.movedim(dim, -1).reshape(-1, self.units.shape[dim]) for values in (self.counted(counts), self.units)
        )
        lengths = counted.sum(-1)
        fibers, length = len(lengths), int(lengths[0])
        if not bool((lengths == length).all()):
            raise Unfit(self.numbers)
        times = counted.flatten()
        places = torch.arange(counted.shape[1]).repeat(fibers).repeat_interleave(times).view(fibers, length)
        firsts = (counted.cumsum(1) - counted).gather(1, places)
        copies = torch.arange(length) - firsts
        runs = torch.cat([units.new_zeros(fibers, 1), (units[:, 1:] != units[:, :-1]).cumsum(1)], 1).gather(1, places)
        order = ((runs * (int(times.max()) + 1) + copies) * counted.shape[1] + places).argsort(1)
        shape = [size for d, size in enumerate(self.units.shape) if d != dim]
        places, copies = (values.gather(1, order).view(*shape, length).movedim(-1, dim) for values in (places, copies))
        return places, copies

    def resized(self, counts: Tensor) -> Layout:
        """Where the units lie afterwards, with their new numbers.

        Args:
            counts: [units] int64, how many units each unit becomes. 0: the unit goes. 1: it stays. More: the unit
                stays, and the others join behind it.

        Raises:
            Unfit: see `along`.
        """
        starts = counts.cumsum(0) - counts
        dim = self.along(counts)
        if dim is None:
            return Layout(self.shape, torch.where(self.units < 0, -1, starts[self.units.clamp(min=0)]))
        index, copies = self.index(dim, counts)
        units = self.units.gather(dim, index)
        numbers = torch.where(units < 0, -1, starts[units.clamp(min=0)] + copies)
        shape = list(self.shape)
        shape[dim] = index.shape[dim]
        return Layout(torch.Size(shape), numbers)

    def taken(self, values: Tensor, counts: Tensor) -> Tensor:
        """A tensor of this layout as it is afterwards. Units that join have the values of the unit in front of them.

        Raises:
            Unfit: see `along`.
        """
        dim = self.along(counts)
        if dim is None:
            return values
        index = self.index(dim, counts)[0].to(values.device)
        if self.varying == (dim,):
            return values.index_select(dim, index.flatten())
        shape = list(values.shape)
        shape[dim] = index.shape[dim]
        return values.gather(dim, index.expand(shape))

    def first(self, values: Tensor, counts: Tensor) -> Tensor:
        """The part of a tensor of the new layout (`resized`) that belongs to units which were there before."""
        return Layout(torch.Size(values.shape), self.resized(counts).units).taken(values, _kept(counts))


def layouts_in(value: object) -> Iterator[Layout]:
    """The layouts in nested tuples and lists."""
    if isinstance(value, Layout):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from layouts_in(item)


def _kept(counts: Tensor) -> Tensor:
    """[new units] 1 for a unit that was there before, 0 for a unit that has joined."""
    joined = torch.zeros(int(counts.sum()), dtype=torch.int64)
    starts = (counts.cumsum(0) - counts)[counts > 0]
    return joined.index_fill(0, starts, 1)
