"""A parameter as rows in memory, and the rate of each tile, for the kernels that lock one tensor.

The memory of a parameter is read as a matrix of rows; a program works on one tile of it. An example: the weight of a
convolution, [64, 32, 3, 3], contiguous. It is 64 rows of 32 * 9 = 288 elements.

- Row r belongs to output channel r.
- Element n of a row belongs to input channel `n // 9`: `column_span` is 9. Element 20 belongs to input channel 2.
- If the channels come last in memory, the order in a row is [3, 3, 32]. Element n then belongs to input channel
  `n % 32`: `column_count` is 32. Element 70 belongs to input channel 6.

A tile has 8 rows and 256 columns, so 8 * 2 = 16 programs run. The lock says rate 0, rate 1 or something between for a
whole tile or for single elements: see `locked_tile`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.device import rate_of
from hat_kernels.lock import Lock, contiguous

TILE = 2048  # elements of a program, 16 for each thread: with 32, kernels spill registers on some GPUs
VECTOR = 8  # elements in 16 bytes of the smallest dtype
WIDTH = 256  # columns of a tile at most: a narrow tile seldom holds both locked and free units
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

    The length of a row comes as a number of vectors. So the compiler knows that VECTOR divides it. The rate broadcasts
    against the tile: it has length 1 along an axis that has no lock. The lowest and the highest rate come from the free
    units of both axes, not from all elements: max(row, column) is monotone in both.
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
    """A parameter as rows of neighbouring elements, and the places of the units of its lock.

    Row r belongs to row unit `r // row_span`. Element n of a row belongs to column unit `n // column_span`. If channels
    come last, n is first taken modulo `column_count`. In group g of a grouped convolution, `g * column_count` is then
    added to n.

    Attributes:
        row_count: the number of rows.
        length: the elements of a row.
        stride: the elements from the start of a row to the start of the next.
        row_units: float32, the free units along the rows, or None.
        column_units: float32, the free units along the columns, or None.
        row_span: how many consecutive rows belong to one unit.
        column_span: how many consecutive elements of a row belong to one unit.
        column_count: the elements of a row that the units of one group span.
        groups: the groups of a grouped convolution.
        channels_last: the channels are the fastest dimension in memory.
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
        """The largest number of elements, VECTOR at most, that divides the length and the stride."""
        return math.gcd(self.length, self.stride, VECTOR)

    @property
    def blocks(self) -> tuple[int, int]:
        """(BLOCK_M, BLOCK_N), the size of a tile."""
        n = min(triton.next_power_of_2(self.length), WIDTH)
        m = min(triton.next_power_of_2(self.row_count), TILE // n)
        return m, min(triton.next_power_of_2(self.length), TILE // m)

    @property
    def programs(self) -> int:
        """The number of tiles."""
        m, n = self.blocks
        return triton.cdiv(self.row_count, m) * triton.cdiv(self.length, n)

    def arguments(self) -> dict[str, Any]:
        """The arguments of a kernel by name, without the parameter, the tensors beside it, and their strides."""
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
    """A parameter of at least one element as rows; None if its memory is not rows of neighbouring elements."""
    lock = contiguous(lock)
    if parameter.dim() < 2:
        neighbours = parameter.numel() == 1 or parameter.stride(0) == 1
        return _one_row(parameter, lock) if neighbours else None
    if parameter.dim() == 2 and parameter.stride(0) == 1 and parameter.stride(1) > 1 and lock.groups == 1:
        # max(row, column) is symmetric, so the transpose has the same rates.
        swapped = Lock(lock.columns, lock.rows, lock.column_repeat, lock.row_repeat)
        return as_rows(parameter.t(), swapped)
    if lock.columns is None and parameter.is_contiguous() and parameter[0].numel() % VECTOR:
        return _one_row(parameter, lock)  # as rows, few of them would start at a multiple of 16 bytes
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
    """All elements as one row: the units of dimension 0 follow each other along it."""
    numel, rows = parameter.numel(), parameter.shape[0] if parameter.dim() else 1
    units, span = lock.rows, lock.row_repeat * (numel // rows)
    return Rows(1, numel, 0, None, units, row_span=1, column_span=span, column_count=numel)
