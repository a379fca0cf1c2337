"""Ids of units, and which ids are the same unit.

Example: `units.new(2)` gives the ids [1, 2], the outputs of a convolution, and `units.new(2)` again [3, 4], the outputs
of another one. The network adds the two, so `units.unite([1, 2], [3, 4])`: now 1 and 3 are one unit, and 2 and 4 are.
`units.find([1, 2, 3, 4])` is [1, 2, 1, 2], because the smallest id names a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Units:
    """Ids 1, 2, ... in classes that can be united: a union-find whose operations take whole tensors of ids.

    All ids of one class are one unit. The id 0 stands for elements that belong to no unit. All tensors are int64 on the
    CPU.
    """

    def __init__(self) -> None:
        self._parent = torch.zeros(1, dtype=torch.int64)
        self._marks: list[tuple[Tensor, Tensor]] = []

    @property
    def count(self) -> int:
        """The number of ids, including 0."""
        return len(self._parent)

    def new(self, *shape: int) -> Tensor:
        """[*shape] new ids."""
        first, count = len(self._parent), torch.Size(shape).numel()
        ids = torch.arange(first, first + count)
        self._parent = torch.cat([self._parent, ids])
        return ids.view(shape)

    def find(self, ids: Tensor) -> Tensor:
        """The smallest id in the class of every id."""
        flat = ids.flatten()  # an index without dimensions would give a view
        roots = self._parent[flat]
        while not torch.equal(above := self._parent[roots], roots):
            roots = above
        self._parent[flat] = roots
        return roots.view(ids.shape)

    def resolved(self, labels: Tensor) -> Tensor:
        """The classes of labels; -1 stays -1. Dimensions along which the classes do not vary take no memory."""
        (classes,) = narrowed(labels)
        classes = torch.where(classes > 0, self.find(classes.clamp(min=0)), classes)
        return narrowed(classes)[0].expand(labels.shape)

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """[P, 2] the pairs of classes that meet: the broadcast `a` and `b` both have a unit there. Every pair once."""
        a, b = torch.broadcast_tensors(*narrowed(a, b))
        both = torch.stack([a.flatten(), b.flatten()], 1)
        both = both[(both > 0).all(1)]
        # The first `unique` leaves few ids for the search; the second one removes pairs that the search made equal.
        both = torch.unique(both, dim=0) if len(both) else both
        return torch.unique(self.find(both), dim=0) if len(both) else both

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Make one class of every two classes that meet; see `pairs`."""
        pairs = self.pairs(a, b)
        while len(pairs):
            low, high = pairs.amin(1), pairs.amax(1)
            self._parent.scatter_reduce_(0, high, low, "amin")
            pairs = torch.stack([low, self._parent[high]], 1)  # another pair may have linked `high` to another class
            pairs = self.find(pairs)
            pairs = pairs[pairs[:, 0] != pairs[:, 1]]

    def part(self, ids: Tensor, marks: Tensor) -> None:
        """Units may change places with each other only if they have the same marks.

        Args:
            ids: int64 of any shape.
            marks: integers that broadcast with `ids`.
        """
        ids, marks = torch.broadcast_tensors(*narrowed(ids, marks))
        self._marks.append((ids.flatten(), marks.flatten()))

    def fix(self, ids: Tensor) -> None:
        """Units may not change places at all."""
        classes = torch.unique(self.find(torch.unique(ids.clamp(min=0))))
        self.part(classes, classes)

    def segments(self, classes: Tensor) -> Tensor:
        """[N] the number of the segment of every class [N]. Classes of one segment may change places."""
        return self.group(classes, self._marks)

    def group(self, classes: Tensor, marks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """[N] numbers, which are equal for classes that have the same marks the same number of times.

        Args:
            classes: [N] what `find` gave, every class once.
            marks: pairs (ids [M], integers [M]).
        """
        place = torch.full((len(self._parent),), -1, dtype=torch.int64)
        place[classes] = torch.arange(len(classes))
        bags = torch.zeros(len(classes), dtype=torch.int64)
        for number, (ids, values) in enumerate(marks):
            positions = place[self.find(ids)]
            listed = positions >= 0
            bags.scatter_add_(0, positions[listed], _hashed(_hashed(values[listed]) + number))
        return torch.unique(bags, return_inverse=True)[1]


def _hashed(values: Tensor) -> Tensor:
    """A hash of every integer over the whole range of int64, so that the sum of the hashes identifies a bag of values.

    Among N bags, two sums agree by chance with a probability of N^2 / 2^65: 10^-10 for 10^5 classes.
    """
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 0x1E3779B97F4A7C15)):
        values = (values + factor) ^ ((values + factor) >> shift)
        values = values * factor
    return values ^ (values >> 31)


def narrowed(*tensors: Tensor) -> Sequence[Tensor]:
    """The same tensors with length 1 along every dimension in which none of them varies. They still broadcast."""
    dims = max(tensor.dim() for tensor in tensors)
    aligned = [tensor[(None,) * (dims - tensor.dim())] for tensor in tensors]
    for dim in range(dims):
        aligned = [
            tensor.narrow(dim, 0, min(1, tensor.shape[dim])) if constant(tensor, dim) else tensor for tensor in aligned
        ]
    return aligned


def constant(labels: Tensor, dim: int) -> bool:
    """Whether the ids are the same all along a dimension."""
    if labels.shape[dim] <= 1 or labels.stride(dim) == 0:
        return True
    return torch.equal(labels, labels.narrow(dim, 0, 1).expand_as(labels))


def varying(labels: Tensor) -> tuple[int, ...]:
    """The dimensions along which the ids are not all the same."""
    return tuple(dim for dim in range(labels.dim()) if not constant(labels, dim))


def of_one(shape: torch.Size) -> int | None:
    """The dimension of the unit of a value that has only one unit: the channels or the last dimension, of length 1.

    None if both have length 1, or neither has. A dimension of positions is never the answer, because a gate along it
    would demand as many positions as the example has.
    """
    dims = {dim for dim in (1, len(shape) - 1) if 0 < dim < len(shape) and shape[dim] == 1}
    return dims.pop() if len(dims) == 1 else None
