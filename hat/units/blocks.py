"""Which parts of a parameter may still move: the parts behind its leading block, which is locked.

Example: `Linear(4, 3)`, whose weight is [3, 4]. Its rows lie along a gate of 3 units, of which the first is used. Its
columns lie along a gate of 4 units, of which the first two are used. A weight is locked if both of its units are used:

    columns   0  1  2  3
    row 0     L  L  c  c      `Sides.frozen` is (1, 2): row 0 and columns 0 and 1 meet in the locked block L
    row 1     r  r  r  r      `Sides.blocks` are r = weight[1:] and c = weight[0:1, 2:]
    row 2     r  r  r  r

Nothing in r or c is locked, because in both gates all used units are at the front (`Side.in_order`).
"""

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
        in_order: all units behind the locked ones are free.
    """

    free: Tensor
    repeat: int = 1
    locked: int = 0
    in_order: bool = False

    @property
    def behind(self) -> int:
        """The first index behind the locked units."""
        return self.locked * self.repeat

    @property
    def rest(self) -> Tensor:
        """`free` of the units behind the locked ones."""
        return self.free[self.locked :]

    def meet(self, other: Side) -> Side:
        """The units of a dimension that lies along two gates: of tied weights, or of a layer whose input is a sum.

        An index is as free as the less free of its two units.
        """
        if self.repeat != other.repeat:
            return self._spread().meet(other._spread())
        locked, in_order = max(self.locked, other.locked), self.in_order and other.in_order
        return Side(torch.minimum(self.free, other.free), self.repeat, locked, in_order)

    def _spread(self) -> Side:
        return Side(self.free.repeat_interleave(self.repeat), 1, self.behind, self.in_order)


class Block(NamedTuple):
    """A part of a parameter in which something may move.

    Attributes:
        where: the index of the part in the parameter; () for the whole parameter.
        lock: the lock of the part; None if no finished task uses any of the parameter.
        free: all of the part may move.
    """

    where: tuple[slice, ...] = ()
    lock: Lock | None = None
    free: bool = True


class Sides(NamedTuple):
    """The units along the first two dimensions of a parameter.

    Attributes:
        rows: the units along dimension 0; None if that dimension lies along no gate.
        columns: the units along dimension 1; None if that dimension lies along no gate.
        groups: the number of groups of a grouped convolution. The rows of group g meet the columns of group g only.
    """

    rows: Side | None = None
    columns: Side | None = None
    groups: int = 1

    @property
    def lock(self) -> Lock:
        """The lock of the whole parameter."""
        rows, columns = self.rows, self.columns
        return Lock(
            None if rows is None else rows.free,
            None if columns is None else columns.free,
            1 if rows is None else rows.repeat,
            1 if columns is None else columns.repeat,
            self.groups,
        )

    def along(self, side: Side, dim: int, groups: int) -> Sides:
        """These sides with one more gate along dimension 0 or 1."""
        if dim == 0:
            return self._replace(rows=side if self.rows is None else self.rows.meet(side))
        return self._replace(columns=side if self.columns is None else self.columns.meet(side), groups=groups)

    def meet(self, other: Sides) -> Sides:
        """The sides of a parameter that two modules use: in each dimension, the units of both uses count."""
        both = self
        for dim, side in enumerate((other.rows, other.columns)):
            both = both if side is None else both.along(side, dim, other.groups)
        return both

    def frozen(self, shape: Sequence[int]) -> tuple[int, int]:
        """(rows, columns): nothing may move where the first `rows` rows meet the first `columns` columns.

        A dimension that lies along no gate counts with its whole length.
        """
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
        """The parts of a parameter with these sides in which something may move; an empty list if all is locked."""
        shape = tuple(parameter.shape) or (1,)
        rows, columns = self.frozen(shape)
        blocks = []
        if rows < shape[0]:
            blocks.append(Block((slice(rows, None),) if rows else (), *self._below(rows, shape)))
        if self.columns is not None and rows and columns < shape[1]:
            lock = Lock(columns=self.columns.rest, column_repeat=self.columns.repeat)
            blocks.append(Block((slice(0, rows), slice(columns, None)), lock, self.columns.in_order))
        return blocks

    def _below(self, rows: int, shape: Sequence[int]) -> tuple[Lock, bool]:
        """The lock of the rows from number `rows` on, and whether all of these rows may move."""
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
    """A tensor of the shape of `like` that is made of these parts, and 0 elsewhere."""
    whole = torch.zeros_like(like, dtype=parts[0].dtype if parts else None)
    for view, part in zip(cut(whole, blocks), parts, strict=True):
        view.copy_(part)
    return whole


def unpack(state: Tensor | list[Tensor], blocks: Sequence[Block], like: Tensor) -> list[Tensor]:
    """What an optimizer keeps for a parameter, as one tensor per block.

    Args:
        state: what `pack` gave; or one tensor of the shape of the parameter, as before anything was locked.
        blocks: the blocks of the parameter.
        like: the parameter.

    Raises:
        ValueError: `state` is not one tensor of the right shape per block.
    """
    if isinstance(state, Tensor) and state.shape == like.shape:
        return [part if part.shape == state.shape else part.clone() for part in cut(state, blocks)]
    parts = [state] if isinstance(state, Tensor) else state
    expected, got = [tuple(view.shape) for view in cut(like, blocks)], [tuple(part.shape) for part in parts]
    if expected != got:
        raise ValueError(f"state: expected tensors of {expected}, the parts that may move, got {got}")
    return parts


def pack(parts: list[Tensor]) -> Tensor | list[Tensor]:
    """What an optimizer stores for one tensor per block: the tensor itself if there is one block, else the list."""
    return parts[0] if len(parts) == 1 else parts
