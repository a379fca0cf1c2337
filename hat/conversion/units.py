"""Ids of units, and which of them are one and the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Units:
    """Ids 1, 2, ... in classes that can be united: a union-find whose operations take whole tensors of ids.

    0 is the id of what belongs to no unit. All tensors are int64 on the CPU.
    """

    def __init__(self) -> None:
        self._parent = torch.zeros(1, dtype=torch.int64)
        self._marks: list[tuple[Tensor, Tensor]] = []

    @property
    def count(self) -> int:
        """How many ids there are, 0 among them."""
        return len(self._parent)

    def new(self, *shape: int) -> Tensor:
        """Ids [*shape] that nobody has."""
        first, count = len(self._parent), torch.Size(shape).numel()
        ids = torch.arange(first, first + count)
        self._parent = torch.cat([self._parent, ids])
        return ids.view(shape)

    def find(self, ids: Tensor) -> Tensor:
        """The smallest id of the class of each."""
        found = self._parent[ids]
        while not torch.equal(above := self._parent[found], found):
            found = above
        self._parent[ids.flatten()] = found.flatten()
        return found

    def resolved(self, labels: Tensor) -> Tensor:
        """The classes of labels, -1 for -1; stored once along dimensions in which they do not vary."""
        (small,) = narrowed(labels)
        small = torch.where(small > 0, self.find(small.clamp(min=0)), small)
        return narrowed(small)[0].expand(labels.shape)

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """[P, 2] the classes that meet where `a` and `b`, broadcast, both have a unit; each pair once."""
        a, b = torch.broadcast_tensors(*narrowed(a, b))
        both = torch.stack([a.flatten(), b.flatten()], 1)
        both = both[(both > 0).all(1)]
        # Unique before the search, which then has little to search for, and again after it.
        both = torch.unique(both, dim=0) if len(both) else both
        return torch.unique(self.find(both), dim=0) if len(both) else both

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Make one class of each two that meet; see `pairs`."""
        pairs = self.pairs(a, b)
        while len(pairs):
            low, high = pairs.amin(1), pairs.amax(1)
            self._parent.scatter_reduce_(0, high, low, "amin")
            pairs = torch.stack([low, self._parent[high]], 1)  # what another pair has linked `high` to
            pairs = self.find(pairs)
            pairs = pairs[pairs[:, 0] != pairs[:, 1]]

    def part(self, ids: Tensor, marks: Tensor) -> None:
        """Units may change places with each other only if they have the same marks.

        Args:
            ids: of any shape.
            marks: integers that broadcast with it.
        """
        ids, marks = torch.broadcast_tensors(*narrowed(ids, marks))
        self._marks.append((ids.flatten(), marks.flatten()))

    def fix(self, ids: Tensor) -> None:
        """These may not change places at all."""
        found = torch.unique(self.find(torch.unique(ids.clamp(min=0))))
        self.part(found, found)

    def segments(self, classes: Tensor) -> Tensor:
        """[N] the number of the segment within which each of these classes [N] may change places."""
        return self.group(classes, self._marks)

    def group(self, classes: Tensor, marks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """[N] equal numbers for those of these classes [N] that have the same marks, each as often.

        Args:
            classes: as of `find`, each once.
            marks: pairs of ids and integers, both [M].
        """
        place = torch.full((len(self._parent),), -1, dtype=torch.int64)
        place[classes] = torch.arange(len(classes))
        bags = torch.zeros(len(classes), dtype=torch.int64)
        for number, (ids, values) in enumerate(marks):
            where = place[self.find(ids)]
            known = where >= 0
            bags.scatter_add_(0, where[known], _hashed(_hashed(values[known]) + number))
        return torch.unique(bags, return_inverse=True)[1]


def _hashed(values: Tensor) -> Tensor:
    """Integers spread over all of int64, so that sums of them tell bags of values apart.

    The sums of two of N bags agree by chance with a probability of N^2 / 2^65: of 10^5 classes, 10^-10.
    """
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 0x1E3779B97F4A7C15)):
        values = (values + factor) ^ ((values + factor) >> shift)
        values = values * factor
    return values ^ (values >> 31)


def narrowed(*tensors: Tensor) -> Sequence[Tensor]:
    """The same tensors without the dimensions along which none of them varies; they still broadcast."""
    dims = max(tensor.dim() for tensor in tensors)
    aligned = [tensor[(None,) * (dims - tensor.dim())] for tensor in tensors]
    for dim in range(dims):
        aligned = [
            tensor.narrow(dim, 0, min(1, tensor.shape[dim])) if constant(tensor, dim) else tensor for tensor in aligned
        ]
    return aligned


def constant(labels: Tensor, dim: int) -> bool:
    """The ids are the same all along a dimension."""
    if labels.shape[dim] <= 1 or labels.stride(dim) == 0:
        return True
    return torch.equal(labels, labels.narrow(dim, 0, 1).expand_as(labels))


def varying(labels: Tensor) -> tuple[int, ...]:
    """The dimensions along which the ids are not all the same."""
    return tuple(dim for dim in range(labels.dim()) if not constant(labels, dim))


def of_one(shape: torch.Size) -> int | None:
    """The dimension of the only unit of a value, channels or what comes last; None where it may be either or neither.

    Never one of positions: a gate would then want as many of them as the example has.
    """
    found = {dim for dim in (1, len(shape) - 1) if 0 < dim < len(shape) and shape[dim] == 1}
    return found.pop() if len(found) == 1 else None
