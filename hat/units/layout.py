"""Where the units of a tensor lie, and where they lie once some are gone and others have joined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


class Unfit(Exception):
    """Units that lie so that they cannot get these counts.

    Attributes:
        units: the numbers of all that are concerned.
    """

    def __init__(self, units: Tensor) -> None:
        super().__init__(f"{len(units)} units do not fit")
        self.units = units


@dataclass(frozen=True, eq=False)
class Layout:
    """The unit of every element of a tensor.

    Attributes:
        shape: of the tensor.
        units: int64, of as many dimensions, of length 1 where nothing changes along one: the number of the unit that an
            element belongs to, -1 for none.
    """

    shape: torch.Size
    units: Tensor

    @property
    def varying(self) -> tuple[int, ...]:
        """The dimensions along which units differ."""
        return tuple(dim for dim, length in enumerate(self.units.shape) if length > 1)

    def counted(self, counts: Tensor) -> Tensor:
        """How often every element is there from now on; what belongs to no unit, once."""
        return torch.where(self.units < 0, 1, counts[self.units.clamp(min=0)])

    def along(self, counts: Tensor) -> int | None:
        """The dimension whose length changes; None where none does.

        Raises:
            Unfit: there is none along which all that lies beside each other changes alike.
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
        """Every unit of it, once."""
        found = self.units.unique()
        return found[found >= 0]

    def index(self, dim: int, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Which place along `dim` comes to every place from now on, and how many of the same unit have come before it.

        Both of the shape of `units`, but for that dimension. What belongs to one unit in a row, as a channel behind a
        flatten, stays together.

        Raises:
            Unfit: as of `along`.
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
        places, copies = (found.gather(1, order).view(*shape, length).movedim(-1, dim) for found in (places, copies))
        return places, copies

    def resized(self, counts: Tensor) -> Layout:
        """Where the units lie from now on, under their new numbers.

        Args:
            counts: [units] int64, how many there are of each from now on: those behind the first have joined.

        Raises:
            Unfit: as of `along`.
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
        """A tensor of this layout as it is from now on, where what has joined has what stands in front of it.

        Raises:
            Unfit: as of `along`.
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
        """Of a tensor of the layout from now on, what was there before."""
        return Layout(torch.Size(values.shape), self.resized(counts).units).taken(values, _kept(counts))


def layouts_in(value: object) -> Iterator[Layout]:
    """The layouts in nested tuples and lists; None is none."""
    if isinstance(value, Layout):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from layouts_in(each)


def _kept(counts: Tensor) -> Tensor:
    """[new units] 1 for the first of each, 0 for those that have joined."""
    found = torch.zeros(int(counts.sum()), dtype=torch.int64)
    starts = (counts.cumsum(0) - counts)[counts > 0]
    return found.index_fill(0, starts, 1)
