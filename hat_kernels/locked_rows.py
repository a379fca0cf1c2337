"""A parameter as rows in memory, and the rate of a tile of it, for the kernels that lock one tensor."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.device import rate_of
from hat_kernels.lock import Lock, contiguous

TILE = 2048  # elements a program, 16 a thread: at 32 some targets spill
VECTOR = 8  # elements in 16 bytes of the smallest dtype
WIDTH = 256  # columns of it, so that a tile ends soon after the locked units do, along either axis
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def locked_tile(
    row_units_ptr,
    column_units_ptr,
    row_count,
    vectors_per_row,
    row_span,
    column_span,
    column_count,
    group_rows,
    CHANNELS_LAST: tl.constexpr,
    GROUPED: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """(rows [BLOCK_M] int64, columns [BLOCK_N], mask, rate, lowest rate, highest rate) of the tile of this program.

    Lengths in vectors show what divides them. The rate broadcasts against the tile: where one axis has no lock it has
    length 1. The extremes come from the axes, not from the tile, as max(row, column) is monotone in both.
    """
    length = vectors_per_row * VECTOR
    tiles_per_row = tl.cdiv(length, BLOCK_N)
    program = tl.program_id(0).to(tl.int64)
    rows_of_tile = program // tiles_per_row * BLOCK_M + tl.arange(0, BLOCK_M)
    columns_of_tile = program % tiles_per_row * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (rows_of_tile < row_count)[:, None] & (columns_of_tile < length)[None, :]
    rows = tl.minimum(rows_of_tile, row_count - 1)  # inside the parameter, where the units are looked up
    columns = tl.minimum(columns_of_tile, length - 1)
    if column_units_ptr is None:
        rate = tl.load(row_units_ptr + rows // row_span)[:, None]
        lowest = tl.min(rate)
        highest = tl.max(rate)
    else:
        column = columns
        if CHANNELS_LAST:
            column = columns % column_count
        if GROUPED:
            column = (rows // group_rows * column_count)[:, None] + column[None, :]
            by_column = tl.load(column_units_ptr + column // column_span)
        else:
            by_column = tl.load(column_units_ptr + column // column_span)[None, :]
        lowest = tl.min(by_column)
        highest = tl.max(by_column)
        if row_units_ptr is None:
            rate = by_column
        else:
            by_row = tl.load(row_units_ptr + rows // row_span)[:, None]
            rate = rate_of(by_row, by_column)
            lowest = rate_of(tl.min(by_row), lowest)
            highest = rate_of(tl.max(by_row), highest)
    return rows_of_tile, columns_of_tile, mask, rate, lowest, highest


class Rows(NamedTuple):
    """A parameter as `row_count` rows of `length` neighbouring elements, and where the units of its lock lie.

    Row r belongs to row unit `r // row_span`. Element n of a row belongs to column unit `n // column_span`, for which n
    is taken modulo `column_count` if channels come last, and grows by `column_count` from group to group.
    """

    row_count: int
    length: int
    stride: int
    row_units: Tensor | None
    column_units: Tensor | None
    row_span: int
    column_span: int
    column_count: int
    groups: int = 1
    channels_last: bool = False

    @property
    def vector(self) -> int:
        """How many elements, VECTOR at most, divide the length and the stride."""
        return math.gcd(self.length, self.stride, VECTOR)

    @property
    def blocks(self) -> tuple[int, int]:
        """BLOCK_M, BLOCK_N."""
        n = min(triton.next_power_of_2(self.length), WIDTH)
        m = min(triton.next_power_of_2(self.row_count), TILE // n)
        return m, min(triton.next_power_of_2(self.length), TILE // m)

    @property
    def programs(self) -> int:
        m, n = self.blocks
        return triton.cdiv(self.row_count, m) * triton.cdiv(self.length, n)

    def arguments(self) -> dict[str, Any]:
        """Of a kernel, by name, all but the tensors themselves and their strides."""
        m, n = self.blocks
        return {
            "row_units_ptr": self.row_units,
            "column_units_ptr": self.column_units,
            "row_count": self.row_count,
            "vectors_per_row": self.length // self.vector,
            "row_span": self.row_span,
            "column_span": self.column_span,
            "column_count": self.column_count,
            "group_rows": self.row_count // self.groups,
            "CHANNELS_LAST": self.channels_last,
            "GROUPED": self.groups > 1,
            "VECTOR": self.vector,
            "BLOCK_M": m,
            "BLOCK_N": n,
        }


def as_rows(parameter: Tensor, lock: Lock) -> Rows | None:
    """The rows of a parameter of at least one element, or None if its memory is not rows of neighbours."""
    lock = contiguous(lock)
    if parameter.dim() < 2:
        neighbours = parameter.numel() == 1 or parameter.stride(0) == 1
        return _one_row(parameter, lock) if neighbours else None
    if parameter.dim() == 2 and parameter.stride(0) == 1 and parameter.stride(1) > 1 and lock.groups == 1:
        swapped = Lock(lock.columns, lock.rows, lock.column_repeat, lock.row_repeat)  # max(row, column) is symmetric
        return as_rows(parameter.t(), swapped)
    if lock.columns is None and parameter.is_contiguous() and parameter[0].numel() % VECTOR:
        return _one_row(parameter, lock)  # else every other row would start at an odd place
    channels_last = not parameter[0].is_contiguous()
    inside = parameter[0].movedim(0, -1) if channels_last else parameter[0]
    if not inside.is_contiguous():
        return None
    row_count, columns = parameter.shape[:2]
    spatial = 1 if channels_last else parameter[0, 0].numel()
    return Rows(
        row_count=row_count,
        length=inside.numel(),
        stride=parameter.stride(0) if row_count > 1 else 0,
        row_units=lock.rows,
        column_units=lock.columns,
        row_span=lock.row_repeat,
        column_span=lock.column_repeat * spatial,
        column_count=columns * spatial,
        groups=lock.groups,
        channels_last=channels_last,
    )


def _one_row(parameter: Tensor, lock: Lock) -> Rows:
    """All elements in a row, along which the units of dimension 0 follow each other."""
    numel, rows = parameter.numel(), parameter.shape[0] if parameter.dim() else 1
    units, span = lock.rows, lock.row_repeat * (numel // rows)
    return Rows(1, numel, 0, None, units, row_span=1, column_span=span, column_count=numel)
