"""Device functions for the tiles of a table of tensors (`hat_kernels.table`): their pointers, values and rates.

All threads of a program read the same field of a table at once, and the cache answers. So a field is loaded where it is
needed instead of being handed on.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from hat_kernels import table
from hat_kernels.device import rate_of
from hat_kernels.limits import LARGEST as _LARGEST

PARAMETER = tl.constexpr(table.PARAMETER)
GRAD = tl.constexpr(table.GRAD)
STATE = tl.constexpr(table.STATE)
STATE_2 = tl.constexpr(table.STATE_2)
STATE_3 = tl.constexpr(table.STATE_3)
EXTRA = tl.constexpr(table.EXTRA)
ROWS = tl.constexpr(table.ROWS)
COLUMNS = tl.constexpr(table.COLUMNS)
FORM = tl.constexpr(table.FORM)
CODE = tl.constexpr(table.CODE)
FAST = tl.constexpr(table.FAST)
NUMEL = tl.constexpr(table.NUMEL)
STRIDE = tl.constexpr(table.STRIDE)
COLUMN_BLOCKS = tl.constexpr(table.COLUMN_BLOCKS)
FIRST_PROGRAM = tl.constexpr(table.FIRST_PROGRAM)
FREE_COUNT = tl.constexpr(table.FREE_COUNT)
WIDTH = tl.constexpr(table.WIDTH)
INNER = tl.constexpr(table.INNER)
CHANNELS = tl.constexpr(table.CHANNELS)
ROW_REPEAT = tl.constexpr(table.ROW_REPEAT)
COLUMN_REPEAT = tl.constexpr(table.COLUMN_REPEAT)
GROUP_ROWS = tl.constexpr(table.GROUP_ROWS)
PITCH = tl.constexpr(table.PITCH)
FIELDS = tl.constexpr(table.FIELDS)

UNLOCKED = tl.constexpr(table.UNLOCKED)
SEPARABLE = tl.constexpr(table.SEPARABLE)
GATHERED = tl.constexpr(table.GATHERED)

DTYPE_CODES = tl.constexpr(27)
LARGEST = tl.constexpr(_LARGEST)


@triton.jit
def owner(rows_ptr, owners_ptr):
    """(row, index): the row of the table that this program works on, and its number among the programs of that row."""
    program = tl.program_id(0)
    row = rows_ptr + tl.load(owners_ptr + program)
    return row, program - tl.load(row + FIRST_PROGRAM)


@triton.jit
def typed(address, DIGIT: tl.constexpr):
    """An int64 address as a pointer to float32 (0), bfloat16 (1) or float16 (2)."""
    if DIGIT == 0:
        pointer = address.to(tl.pointer_type(tl.float32))
    elif DIGIT == 1:
        pointer = address.to(tl.pointer_type(tl.bfloat16))
    else:
        pointer = address.to(tl.pointer_type(tl.float16))
    return pointer


@triton.jit
def tensor_of(row, FIELD: tl.constexpr, DIGIT: tl.constexpr, start, local, ALIGNED: tl.constexpr):
    """[BLOCK_M, BLOCK_N] pointers into the tensor of a field; `ALIGNED` only if the field FAST of the row is 1."""
    pointer = typed(tl.load(row + FIELD), DIGIT) + start
    if ALIGNED:
        # The compiler cannot know how a pointer from a table is aligned. Without the hint, loads of 128 bits become
        # scalar loads. Triton 3.6 forgets a hint on a pointer cast from an integer, but keeps a hint on a sum.
        pointer = tl.multiple_of(pointer, 16)
    return pointer + local


@triton.jit
def elements(row, row0, column0, ALIGNED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(start, local offsets [BLOCK_M, BLOCK_N], mask) of a tile: a start in 64 bits, and offsets from it in 32 bits."""
    stride = tl.load(row + STRIDE)
    if ALIGNED:
        stride = stride // 8 * 8  # tells the compiler that 8 divides the stride
    start = row0 * stride + column0
    remaining = tl.load(row + NUMEL) - start
    if ALIGNED:
        remaining = remaining // 8 * 8
    m = tl.arange(0, BLOCK_M)[:, None]
    n = tl.arange(0, BLOCK_N)[None, :]
    local = m * stride.to(tl.int32) + n
    return start, local, (n < (stride - column0).to(tl.int32)) & (local < tl.minimum(remaining, 2**30).to(tl.int32))


@triton.jit
def pitched(row, row0, column0, ALIGNED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(start, local offsets) of a tile in a parameter and its gradient, both of which may be rows of larger tensors."""
    pitch = tl.load(row + PITCH)
    if ALIGNED:
        pitch = pitch // 8 * 8
    m = tl.arange(0, BLOCK_M)[:, None]
    n = tl.arange(0, BLOCK_N)[None, :]
    return row0 * pitch + column0, m * pitch.to(tl.int32) + n


@triton.jit
def column_rates(row, form, column0, BLOCK_N: tl.constexpr):
    """[BLOCK_N] the free units along the columns of a tile; 0 if `form` is not SEPARABLE or the lock has no columns."""
    n = (column0 + tl.arange(0, BLOCK_N)).to(tl.int32)
    address = tl.load(row + COLUMNS)
    limit = tl.where((form == SEPARABLE) & (address != 0), tl.load(row + WIDTH), 0)
    channel = (n // tl.load(row + INNER).to(tl.int32)) % tl.load(row + CHANNELS).to(tl.int32)
    unit = channel // tl.load(row + COLUMN_REPEAT).to(tl.int32)
    return tl.load(typed(address, 0) + unit, mask=n < limit, other=0.0)


@triton.jit
def row_rates(row, form, row0, BLOCK: tl.constexpr):
    """[BLOCK] the free units along the rows of a tile; 1 for UNLOCKED, 0 for GATHERED or if the lock has no rows."""
    m = row0 + tl.arange(0, BLOCK)
    address = tl.load(row + ROWS)
    limit = tl.where((form == SEPARABLE) & (address != 0), tl.load(row + NUMEL), 0)
    unit = m // tl.load(row + ROW_REPEAT)
    rates = tl.load(typed(address, 0) + unit, mask=m * tl.load(row + STRIDE) < limit, other=0.0)
    return tl.where(form == UNLOCKED, 1.0, rates)


@triton.jit
def gathered_rates(row, row0, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """[BLOCK_M, BLOCK_N] the rates of a tile of a GATHERED row: the lock is looked up for each element."""
    start = row0 * BLOCK_N
    width = tl.load(row + WIDTH)
    first = start // width
    # One division in 64 bits for the tile. The divisions in the tile have 32 bits, which is five times as fast.
    local = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    end = tl.load(row + NUMEL)
    rows, columns = tl.load(row + ROWS), tl.load(row + COLUMNS)
    row_mask = start + local < tl.where(rows != 0, end, 0)
    column_mask = start + local < tl.where(columns != 0, end, 0)
    local += (start - first * width).to(tl.int32)
    narrow = width.to(tl.int32)
    m = first.to(tl.int32) + local // narrow
    n = local % narrow
    channels = tl.load(row + CHANNELS).to(tl.int32)
    channel = (n // tl.load(row + INNER).to(tl.int32)) % channels
    group = m // tl.load(row + GROUP_ROWS).to(tl.int32)
    column_unit = (group * channels + channel) // tl.load(row + COLUMN_REPEAT).to(tl.int32)
    row_unit = m // tl.load(row + ROW_REPEAT).to(tl.int32)
    by_row = tl.load(typed(rows, 0) + row_unit, mask=row_mask, other=0.0)
    by_column = tl.load(typed(columns, 0) + column_unit, mask=column_mask, other=0.0)
    return rate_of(by_row, by_column)


@triton.jit
def mended(values):
    """The values, with 0 in the place of inf and NaN."""
    return tl.where(tl.abs(values.to(tl.float32)) < float("inf"), values, tl.zeros_like(values))


@triton.jit
def bounded(values):
    """The values, with 0 in the place of inf and NaN, clamped to the range of float16."""
    wide = mended(values).to(tl.float32)
    return tl.minimum(tl.maximum(wide, -LARGEST), LARGEST).to(values.dtype)


@triton.jit
def place(row, index, STEPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(form, first row, first column, column rates [BLOCK_N], moves) of the STEPS tiles of a program.

    `moves` is false if no element of several tiles may move. For one tile it is always true: see `tile_rates`.
    """
    form = tl.load(row + FORM)
    blocks = tl.load(row + COLUMN_BLOCKS)
    row0 = (index // blocks) * (STEPS * BLOCK_M)
    column0 = (index % blocks) * BLOCK_N
    columns = column_rates(row, form, column0, BLOCK_N)
    moves = form == form
    if STEPS > 1:
        moves = (form == GATHERED) | (tl.max(columns, 0) > 0)
        moves = moves | (tl.max(row_rates(row, form, row0, STEPS * BLOCK_M), 0) > 0)
    return form, row0, column0, columns, moves


@triton.jit
def tile_rates(row, form, row0, columns, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(rate [BLOCK_M, BLOCK_N], whether any rate is above 0) of one tile."""
    rows = row_rates(row, form, row0, BLOCK_M)
    rate = rate_of(rows[:, None], columns[None, :])
    moves = (tl.max(rows, 0) > 0) | (tl.max(columns, 0) > 0)
    if form == GATHERED:
        rate = gathered_rates(row, row0, BLOCK_M, BLOCK_N)
        moves = tl.max(tl.max(rate, 1), 0) > 0
    return rate, moves
