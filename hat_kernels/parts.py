"""How the references of the updates go through a parameter: part by part, writing only weights that may move.

A part is a run of rows. For each part the update computes new values, and `LockedPart.write_` writes them if the rate
is not 0. An example with one row of two weights: the old values are [0.5, -0.0], the new values [0.4, nan], and the
rates [1, 0]. `movable` is [all ones, all zeros] as bits. Where a bit of `movable` is 1, a bit in which old and new
differ is flipped in the old value (exclusive or): the row becomes [0.4, -0.0].
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor

from hat_kernels.dispatch import free_to_read
from hat_kernels.limits import LARGEST
from hat_kernels.lock import Lock, rate

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_RUN = 2**17  # elements: temporaries of 0.5 MB stay in the cache; temporaries of 16 MB cost 25 ms for fresh memory


class LockedPart(NamedTuple):
    """A run of rows of a parameter, and its lock as a mask of bits.

    Old and new values are chosen by bits. A sum of products with 0 and 1 would lose a -0.0, would lose a subnormal in
    flush mode, and would keep inf and NaN.

    Attributes:
        rows: the index of the rows, for the parameter, its gradient and its states; `...` for all of a parameter.
        movable: an integer of the size of an element: all bits 1 where the weight may move, else all 0. It broadcasts
            against the part. None without a lock.
        rate: broadcasts against the part. None if every rate is known to be 0 or 1 (only a CPU looks):
            `movable` says the same.
    """

    rows: slice | EllipsisType
    movable: Tensor | None = None
    rate: Tensor | None = None

    def working_copy(self, target: Tensor) -> Tensor:
        """`target` widened, to be changed in place: a copy, or `target` itself if it has no lock and is wide enough."""
        wide = widened(target)
        return wide.clone() if self.movable is not None and wide is target else wide

    def moved(self, target: Tensor, step: Tensor, size: float | Tensor) -> Tensor:
        """`target + size * rate * step`, widened: in `target` itself if it has no lock and is wide enough."""
        wide = widened(target)
        step = self.scaled(step)
        if isinstance(size, Tensor):
            step, size = step * size, 1.0
        if self.movable is None and wide is target:
            return wide.add_(step, alpha=size)
        return wide.add(step, alpha=size)

    def scaled(self, step: Tensor) -> Tensor:
        """`step` times the rate; `step` itself if `rate` is None, because then `write_` alone is enough."""
        return step if self.rate is None else step * self.rate

    def write_(self, target: Tensor, values: Tensor, *, mend: bool = False, spare: bool = False) -> None:
        """`target = values` where the rate is not 0.

        Args:
            target: these rows of the parameter or of a state.
            values: same shape.
            mend: if there is a lock, write 0 for inf and NaN, and clamp the rest to the range of float16.
            spare: the memory of `values` may be overwritten.
        """
        if values is target:
            return
        values = values.to(target.dtype)
        if self.movable is None:
            target.copy_(values)
            return
        if mend:
            values = bounded(values)
        old = target.view(_INTEGER[target.itemsize])
        bits = values.view(old.dtype)
        change = bits.bitwise_xor_(old) if spare else bits ^ old
        old ^= change.bitwise_and_(self.movable.to(old.dtype))


def parts(parameter: Tensor, lock: Lock | None, *, runs: bool = False) -> Iterator[LockedPart]:
    """The parts of a parameter: the whole parameter without a lock, runs of rows with a lock.

    On a CPU a run fits into the cache. On other devices the whole parameter is one part.

    Args:
        parameter: of any shape.
        lock: its lock, or None.
        runs: go in runs of rows without a lock, too. It pays if an update makes many passes over its data: Adam on 4
            million weights took 19 ms in one piece and 11 ms in runs.
    """
    if lock is None:
        yield from map(LockedPart, _runs(parameter) if runs else (...,))
        return
    separable = lock.rows is not None and lock.columns is not None and lock.groups == 1
    locks = [lock._replace(columns=None), lock._replace(rows=None)] if separable else [lock]
    rates = [rate(one_sided, parameter) for one_sided in locks]
    masks = [-(r != 0).to(_INTEGER[parameter.itemsize]) for r in rates]
    # On a GPU, reading the rates would wait for the device. Multiplying by them costs less.
    soft = not free_to_read(parameter) or any(bool(((r != 0) & (r != 1)).any()) for r in rates)
    for rows in _runs(parameter):
        movable = reduce(torch.bitwise_or, [_rows_of(mask, rows) for mask in masks])
        yield LockedPart(rows, movable, reduce(torch.maximum, [_rows_of(r, rows) for r in rates]) if soft else None)


def widened(values: Tensor, mend: bool = False) -> Tensor:
    """The values in float32, or in float64 for float64; if `mend`, 0 in the place of inf and NaN."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return finite(values) if mend else values


def finite(values: Tensor) -> Tensor:
    """The values, with 0 in the place of inf and NaN."""
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def bounded(values: Tensor) -> Tensor:
    """The values, with 0 in the place of inf and NaN, clamped to the range of float16."""
    return finite(values).clamp_(-LARGEST, LARGEST)


def _runs(parameter: Tensor) -> Iterator[slice | EllipsisType]:
    if parameter.dim() == 0 or parameter.device.type != "cpu":
        yield ...
        return
    rows = max(1, _RUN * len(parameter) // max(1, parameter.numel()))
    for start in range(0, len(parameter), rows):
        yield slice(start, start + rows)


def _rows_of(values: Tensor, rows: slice | EllipsisType) -> Tensor:
    """The given rows of `values`; a single row of values broadcasts to all rows."""
    return values if rows is ... or len(values) == 1 else values[rows]
