"""Which parts of a parameter may still move: what is left of it behind the leading block that is locked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hat_kernels import Lock


class Side(NamedTuple):
    """The units along one dimension of a parameter.

    Attributes:
        free: [units] float32 in [0, 1].
        repeat: how many consecutive indices belong to one unit.
        locked: how many units at the front are used.
        in_order: all units behind those are free.
    """

    free: Tensor
    repeat: int = 1
    locked: int = 0
    in_order: bool = False

    @property
    def behind(self) -> int:
        """The first index that belongs to no unit at the front."""
        return self.locked * self.repeat

    @property
    def rest(self) -> Tensor:
        """The units behind those at the front."""
        return self.free[self.locked :]

    def meet(self, other: Side) -> Side:
        """A dimension that lies along two gates, as tied weights or a sum of two layers do: free in both."""
        if self.repeat != other.repeat:
            return self._spread().meet(other._spread())
        locked, in_order = max(self.locked, other.locked), self.in_order and other.in_order
        return Side(torch.minimum(self.free, other.free), self.repeat, locked, in_order)

    def _spread(self) -> Side:
        return Side(self.free.repeat_interleave(self.repeat), 1, self.behind, self.in_order)


class Block(NamedTuple):
    """A part of a parameter in which something may move.

    Attributes:
        where: what to index the parameter with; () for all of it.
        lock: of the part; None where no finished task meets it.
        free: all of the part may move.
    """

    where: tuple[slice, ...] = ()
    lock: Lock | None = None
    free: bool = True


class Sides(NamedTuple):
    """What is known of a parameter's first two dimensions; a dimension without units is None.

    Attributes:
        rows, columns: see `Side`.
        groups: of a grouped convolution, whose group g of rows meets the columns of group g only.
    """

    rows: Side | None = None
    columns: Side | None = None
    groups: int = 1

    @property
    def lock(self) -> Lock:
        rows, columns = self.rows, self.columns
        return Lock(
            None if rows is None else rows.free,
            None if columns is None else columns.free,
            1 if rows is None else rows.repeat,
            1 if columns is None else columns.repeat,
            self.groups,
        )

    def along(self, side: Side, dim: int, groups: int) -> Sides:
        """With one more gate along dimension 0 or 1."""
        if dim == 0:
            return self._replace(rows=side if self.rows is None else self.rows.meet(side))
        return self._replace(columns=side if self.columns is None else self.columns.meet(side), groups=groups)

    def meet(self, other: Sides) -> Sides:
        """Of a parameter that two modules have: what is known of a dimension here holds there too."""
        found = self
        for dim, side in enumerate((other.rows, other.columns)):
            found = found if side is None else found.along(side, dim, other.groups)
        return found

    def frozen(self, shape: Sequence[int]) -> tuple[int, int]:
        """(rows, columns): where the first of both meet, nothing may move; all columns where rows are locked alone."""
        rows = 0 if self.rows is None else self.rows.behind
        if self.columns is None:
            return rows, shape[1] if len(shape) > 1 else 1
        if self.rows is None:
            return shape[0], self.columns.behind
        if self.groups == 1:
            return rows, self.columns.behind
        count, width = shape[0] // self.groups, shape[1]
        locked = min(rows // count, self.columns.behind // width)  # groups
        cuts_a_unit = locked * count % self.rows.repeat or locked * width % self.columns.repeat
        return (0, 0) if cuts_a_unit else (locked * count, width)

    def blocks(self, parameter: Tensor) -> list[Block]:
        """The parts of a parameter with these sides in which something may move; none if it is locked altogether."""
        shape = tuple(parameter.shape) or (1,)
        rows, columns = self.frozen(shape)
        found = []
        if rows < shape[0]:
            found.append(Block((slice(rows, None),) if rows else (), *self._below(rows, shape)))
        if self.columns is not None and rows and columns < shape[1]:
            lock = Lock(columns=self.columns.rest, column_repeat=self.columns.repeat)
            found.append(Block((slice(0, rows), slice(columns, None)), lock, self.columns.in_order))
        return found

    def _below(self, rows: int, shape: Sequence[int]) -> tuple[Lock, bool]:
        """The lock of all rows from this one on, and whether all of them may move."""
        if self.rows is None:
            return self.lock, False
        lock = self.lock._replace(rows=self.rows.free[rows // self.rows.repeat :])
        if self.groups > 1 and self.columns is not None:
            groups = rows * self.groups // shape[0]
            behind = groups * shape[1] // self.columns.repeat
            lock = lock._replace(columns=self.columns.free[behind:], groups=self.groups - groups)
        return lock, self.rows.in_order and rows == self.rows.behind


def cut(whole: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """Views of the blocks of a tensor that has its parameter's shape."""
    return [whole[block.where] for block in blocks]


def join(parts: Sequence[Tensor], blocks: Sequence[Block], like: Tensor) -> Tensor:
    """The tensor of the shape of `like` that has these parts, and 0 elsewhere."""
    whole = torch.zeros_like(like, dtype=parts[0].dtype if parts else None)
    for view, part in zip(cut(whole, blocks), parts, strict=True):
        view.copy_(part)
    return whole


def unpack(state: Tensor | list[Tensor], blocks: Sequence[Block], like: Tensor) -> list[Tensor]:
    """What an optimizer keeps for a parameter, one tensor a block.

    Args:
        state: see `pack`; or of the shape of the parameter, as it was before anything was locked.
        blocks: of the parameter.
        like: the parameter.

    Raises:
        ValueError: there is not one tensor of the right shape a block.
    """
    if isinstance(state, Tensor) and state.shape == like.shape:
        return [part if part.shape == state.shape else part.clone() for part in cut(state, blocks)]
    parts = [state] if isinstance(state, Tensor) else state
    expected, got = [tuple(view.shape) for view in cut(like, blocks)], [tuple(part.shape) for part in parts]
    if expected != got:
        raise ValueError(f"state: expected tensors of {expected}, what may move of the parameter, got {got}")
    return parts


def pack(parts: list[Tensor]) -> Tensor | list[Tensor]:
    """One tensor a block as an optimizer keeps it: the tensor itself where there is one block."""
    return parts[0] if len(parts) == 1 else parts
