"""How the references of the updates go through a parameter: part by part, and writing only where something may move."""

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
_CHUNK = 2**17  # elements: temporaries of half a megabyte stay in the cache; of 16 they cost 25 ms of fresh pages


class Part(NamedTuple):
    """A run of rows of a parameter, and its lock as a mask of bits.

    The choice between old and new is made on bits: a sum would lose a -0.0 and, in flush mode, a subnormal, and a
    product with 0 keeps inf and NaN.

    Attributes:
        rows: what to index the parameter, its gradient and its states with.
        movable: all ones where something may move, as int64 or narrower; broadcastable. None without a lock.
        rate: broadcastable, None where it is 0 or 1 everywhere, which `movable` says.
    """

    rows: slice | EllipsisType
    movable: Tensor | None = None
    rate: Tensor | None = None

    def own(self, target: Tensor) -> Tensor:
        """`target` widened, to be changed in place: itself where nothing is locked and nothing is to widen."""
        wide = widened(target)
        return wide.clone() if self.movable is not None and wide is target else wide

    def moved(self, target: Tensor, step: Tensor, size: float | Tensor) -> Tensor:
        """`target + size * rate * step`, widened: in place where nothing is locked and nothing is to widen."""
        wide = widened(target)
        step = self.scaled(step)
        if isinstance(size, Tensor):
            step, size = step * size, 1.0
        if self.movable is None and wide is target:
            return wide.add_(step, alpha=size)
        return wide.add(step, alpha=size)

    def scaled(self, step: Tensor) -> Tensor:
        """`step` times a fractional rate."""
        return step if self.rate is None else step * self.rate

    def write_(self, target: Tensor, values: Tensor, *, mend: bool = False, spare: bool = False) -> None:
        """`target = values` where the rate is not 0.

        Args:
            target: of the parameter or a state.
            values: same shape.
            mend: under a lock, keep within the range of float16.
            spare: `values` may be overwritten.
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


def parts(parameter: Tensor, lock: Lock | None, *, runs: bool = False) -> Iterator[Part]:
    """All of a parameter that has no lock; else, or if `runs`, on a CPU runs of rows that a cache holds.

    Ask for `runs` where many passes are made over each: Adam on 4 million weights took 19 ms in one piece, 11 in runs.
    """
    if lock is None:
        yield from map(Part, _chunks(parameter) if runs else (...,))
        return
    separable = lock.rows is not None and lock.columns is not None and lock.groups == 1
    locks = [lock._replace(columns=None), lock._replace(rows=None)] if separable else [lock]
    rates = [rate(each, parameter) for each in locks]
    masks = [-(r != 0).to(_INTEGER[parameter.itemsize]) for r in rates]
    # Elsewhere than on a CPU to look would wait for the device, and a product costs less.
    soft = not free_to_read(parameter) or any(bool(((r != 0) & (r != 1)).any()) for r in rates)
    for rows in _chunks(parameter):
        movable = reduce(torch.bitwise_or, [_along(mask, rows) for mask in masks])
        yield Part(rows, movable, reduce(torch.maximum, [_along(r, rows) for r in rates]) if soft else None)


def widened(values: Tensor, mend: bool = False) -> Tensor:
    """As float32 at least, and with 0 for what is not finite if `mend`."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return finite(values) if mend else values


def finite(values: Tensor) -> Tensor:
    """0 for inf and NaN."""
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def bounded(values: Tensor) -> Tensor:
    """0 for inf and NaN, the rest within the range of float16."""
    return finite(values).clamp_(-LARGEST, LARGEST)


def _chunks(parameter: Tensor) -> Iterator[slice | EllipsisType]:
    if parameter.dim() == 0 or parameter.device.type != "cpu":
        yield ...
        return
    rows = max(1, _CHUNK * len(parameter) // max(1, parameter.numel()))
    for start in range(0, len(parameter), rows):
        yield slice(start, start + rows)


def _along(values: Tensor, rows: slice | EllipsisType) -> Tensor:
    """The rows of a chunk; a single row serves all."""
    return values if rows is ... or len(values) == 1 else values[rows]
