"""How a tensor changes when units change places, go or join: one operation for all three.

Example: the weight of `Linear(3, 2)` lies along a gate of 3 units by its columns. When unit 2 moves to the front, place
0 gets column 2, place 1 column 0 and place 2 column 1: `places = [[2, 0, 1]]`, and nothing has joined. When unit 1
goes and another unit joins behind unit 2, `places = [[0, 2, 2]]` and `joined = [[False, False, True]]`: the new column
stands behind the column of unit 2, and is 0 until somebody draws it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Change(NamedTuple):
    """New places along one dimension of a tensor.

    Attributes:
        dim: the dimension.
        length: of that dimension before.
        places: [groups, new length] int64, what comes to each place of every group; see `hat.Along.groups`. With more
            than one group `dim` is 1, and dimension 0 is divided evenly among the groups.
        joined: [groups, new length] bool, the places of units that have joined.
    """

    dim: int
    length: int
    places: Tensor
    joined: Tensor

    @classmethod
    def of_order(cls, dim: int, places: Tensor) -> Change:
        """Units change places; none goes and none joins.

        Args:
            dim: the dimension.
            places: [groups, length] int64, a permutation in every group.
        """
        return cls(dim, places.shape[1], places, torch.zeros_like(places, dtype=torch.bool))

    def __call__(self, values: Tensor, *, fill: bool = True) -> Tensor:
        """`values` with these places. Units that have joined are 0, or without `fill` as the unit in front of them.

        If `values` does not extend along `dim`, as what some optimizers keep for whole rows, it is returned unchanged.
        """
        if values.dim() <= self.dim or values.shape[self.dim] != self.length:
            return values
        places = self.places.to(values.device)
        if len(places) == 1:
            changed = values.index_select(self.dim, places[0])
        else:
            groups = values.unflatten(0, (len(places), -1))
            changed = torch.cat([group.index_select(1, index) for group, index in zip(groups, places, strict=True)])
        return changed.masked_fill(self.mask(changed), 0) if fill and self.joined.any() else changed

    def mask(self, changed: Tensor) -> Tensor:
        """Bool, broadcasts with the changed values: the places of units that have joined along this dimension."""
        joined = self.joined.to(changed.device)
        if len(joined) > 1:
            joined = joined.repeat_interleave(changed.shape[0] // len(joined), 0)
            return joined.view(*joined.shape, *(1,) * (changed.dim() - 2))
        return joined.view(-1, *(1,) * (changed.dim() - self.dim - 1))


Changes = Mapping[Tensor, Sequence[Change]]
"""The changes of every parameter that changes."""


def applied(values: Tensor, changes: Iterable[Change], *, fill: bool = True) -> Tensor:
    """`values` after these changes."""
    for change in changes:
        values = change(values, fill=fill)
    return values
