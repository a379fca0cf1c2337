"""A table of pointers: one launch of a kernel updates a whole list of tensors of any shapes and dtypes.

The table has one row of int64 numbers for each parameter: the addresses of the parameter, its gradient, its states and
its lock, then its form and sizes. A parameter is read as a matrix and cut into tiles of `BLOCK_M` x `BLOCK_N` = 4 x 256
elements. A program works on `steps` tiles, one under the other. How the matrix is made depends on the form:

- SEPARABLE: a weight with a lock whose rows are long (128 elements or more). The matrix has the rows of the weight, so
  a program loads the lock once for a tile: 4 row units and 256 column units.
- UNLOCKED: a parameter without a lock. Its elements are one run, folded into rows of 256.
- GATHERED: a parameter with any other lock (biases; narrow, grouped and odd-sized weights). Its elements are folded in
  the same way, and the lock is looked up for each element.

An example. A linear layer has a weight [1000, 784] and a bias [1000], both locked.

    row  parameter  form       matrix       tiles             programs
    0    weight     SEPARABLE  1000 x 784   250 x 4 = 1000    0 to 999
    1    bias       GATHERED   4 x 256      1 x 1 = 1         1000

The grid has 1001 programs. `owners` tells every program where the row of its parameter starts: 0 for programs 0 to 999,
and `FIELDS` = 23 for program 1000. Program 1000 finds `FIRST_PROGRAM` = 1000 in its row: it has tile 0 of the bias.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hat_kernels import dispatch
from hat_kernels.capturing import hold, is_capturing
from hat_kernels.lock import Lock

# The fields of a row of the table, all int64.
PARAMETER, GRAD, STATE, STATE_2, STATE_3, EXTRA, ROWS, COLUMNS = range(8)  # addresses
FORM, CODE, FAST, NUMEL, STRIDE, COLUMN_BLOCKS, FIRST_PROGRAM, FREE_COUNT = range(8, 16)
WIDTH, INNER, CHANNELS, ROW_REPEAT, COLUMN_REPEAT, GROUP_ROWS, PITCH = range(16, 23)
FIELDS = 23

UNLOCKED, SEPARABLE, GATHERED = range(3)

BLOCK_M, BLOCK_N = 4, 256
STEPS = (1, 4, 16)  # tiles of a program; more in large lists, as a program costs a microsecond even if it skips
PROGRAMS = 4096  # at least so many programs stay when a program gets several tiles: some waves of a large GPU
WIDEST = 2**26  # columns of a SEPARABLE weight at most: offsets in a tile have 32 bits

DTYPES = {dtype: digit for digit, dtype in enumerate(dispatch.DTYPES)}

_KEPT = 512  # tables; a step uses two for each parameter group, and one for the norm of the gradients
_RESERVED = 2**18  # numbers, 2 MiB; the tables of a network of 100 million weights take a tenth
_MULTIPLE = 8  # elements: 16 bytes of the narrowest dtype, for loads of 128 bits


class PointerTable(NamedTuple):
    """A table on the device, and how to launch a kernel on it.

    Attributes:
        rows: [parameters * FIELDS] int64 on the device.
        owners: [programs] int64 on the device: where in `rows` the row of a program's parameter starts.
        length: the number of rows, one for each parameter.
        programs: the size of the grid.
        steps: the number of tiles of a program.
        codes: bit `dtype_code(parameter, grad, state)` is 1 if a row of the table has these dtypes.
    """

    rows: Tensor
    owners: Tensor
    length: int
    programs: int
    steps: int
    codes: int


class Operands(NamedTuple):
    """The tensors of one row of a table.

    All of them have the same dense layout. The exception: the parameter and its gradient may be rows of larger tensors,
    while the states are dense.

    Attributes:
        parameter: the tensor that the kernel updates.
        grad: its gradient.
        states: the tensors that an optimizer keeps for the parameter; three at most.
        lock: the lock of the parameter, or None.
        channels_last: the channels are the fastest dimension in memory.
        extra: a vector or scalar, float32, that belongs to the parameter.
        pitch: if the parameter is rows of a larger tensor, the elements from the start of a row to the start of the
            next; else 0.
    """

    parameter: Tensor
    grad: Tensor
    states: tuple[Tensor, ...] = ()
    lock: Lock | None = None
    channels_last: bool = False
    extra: Tensor | None = None
    pitch: int = 0


def dtype_code(parameter: torch.dtype, grad: torch.dtype, state: torch.dtype) -> int:
    """The dtypes of a row as one number of three digits to base 3; `hat_kernels.tile.typed` reads a digit."""
    return DTYPES[parameter] * 9 + DTYPES[grad] * 3 + DTYPES[state]


_tables: OrderedDict[tuple[object, ...], PointerTable] = OrderedDict()


def table(operands: Sequence[Operands], *, steps: int | None = None) -> PointerTable:
    """The table of a list of operands. The same addresses, shapes, dtypes and locks give the same table again.

    A kept table cannot go stale: its numbers follow from the key alone, and it refers to no tensor. Building a table is
    one small copy from pinned memory, which does not wait for the device. While a CUDA graph is captured, this copy is
    recorded into the graph. The memory that the graph reads is then kept for the graph: the pinned memory, or a table
    from an earlier step.

    Args:
        operands: at least one; none is empty, and all are on one device.
        steps: the number of tiles of a program; by default 1, and more in large lists.
    """
    device = operands[0].parameter.device
    key = (device, steps, *(entry for operand in operands for entry in _key(operand)))
    capturing = is_capturing(device)
    result = _tables.get(key)
    if result is None:
        result, host = _build(operands, steps, device, capturing)
        if capturing:
            hold(host)  # the copy on the device is filled only when the graph runs: no other launch may use it
            return result
        _tables[key] = result
        if len(_tables) > _KEPT:
            _tables.popitem(last=False)
    elif capturing:
        hold(result)
    else:
        _tables.move_to_end(key)
    return result


def _key(operand: Operands) -> tuple[object, ...]:
    parameter, grad, states, lock, channels_last, extra, pitch = operand
    state = (states[0].dtype, *(s.data_ptr() for s in states)) if states else ()
    rates: tuple[object, ...] = ()
    if lock is not None:
        rates = (_address(lock.rows), _address(lock.columns), lock.row_repeat, lock.column_repeat, lock.groups)
    return (
        parameter.data_ptr(),
        parameter.shape,
        parameter.dtype,
        grad.data_ptr(),
        grad.dtype,
        state,
        rates,
        channels_last,
        pitch,
        None if extra is None else (extra.data_ptr(), extra.numel()),
    )


def _build(
    operands: Sequence[Operands], steps: int | None, device: torch.device, capturing: bool
) -> tuple[PointerTable, Tensor]:
    rows = [_row(operand) for operand in operands]
    tiles = [_tile_rows(row) * row[COLUMN_BLOCKS] for row in rows]
    if steps is None:
        steps = max(s for s in STEPS if s == 1 or sum(tiles) >= s * PROGRAMS)
    programs, codes = 0, 0
    owner_runs = []
    for index, row in enumerate(rows):
        row_programs = -(-_tile_rows(row) // steps) * row[COLUMN_BLOCKS]
        row[FIRST_PROGRAM] = programs
        programs += row_programs
        codes |= 1 << row[CODE]
        owner_runs.append(torch.full((row_programs,), index * FIELDS, dtype=torch.int64))
    host = torch.cat([torch.tensor(rows, dtype=torch.int64).flatten(), *owner_runs])
    if device.type == "cuda":
        host = _Reserve.take(host) if capturing else host.pin_memory()
        _Reserve.fill(capturing)
    numbers = host.to(device, non_blocking=True)
    rows_end = len(rows) * FIELDS
    return PointerTable(numbers[:rows_end], numbers[rows_end:], len(rows), programs, steps, codes), host


class _Reserve:
    """Pinned memory for tables that are built while a graph is captured: pinned memory cannot be allocated then."""

    block = torch.empty(0, dtype=torch.int64)
    used = 0

    @classmethod
    def fill(cls, capturing: bool) -> None:
        """Outside of a capture: take a new block if half of this one is used. Graphs that read the old one keep it."""
        if not capturing and cls.used >= len(cls.block) // 2:
            cls.block, cls.used = torch.empty(_RESERVED, dtype=torch.int64, pin_memory=True), 0

    @classmethod
    def take(cls, host: Tensor) -> Tensor:
        """A copy of the numbers, in pinned memory that no other table will get."""
        if len(host) > len(cls.block) - cls.used:
            return host.pin_memory()  # the block is full; some versions of PyTorch allow this during a capture
        reserved = cls.block[cls.used : cls.used + len(host)]
        cls.used += len(host)
        return reserved.copy_(host)


def _row(operand: Operands) -> list[int]:
    parameter, grad, states, lock, channels_last, extra, pitch = operand
    lock = lock if lock is None or lock.rows is not None or lock.columns is not None else None
    shape, numel = parameter.shape, parameter.numel()
    channels = shape[1] if len(shape) > 1 else 1
    elements_per_channel = math.prod(shape[2:])
    width = channels * elements_per_channel
    addresses = [parameter.data_ptr(), grad.data_ptr(), *(state.data_ptr() for state in states)]
    aligned = numel % _MULTIPLE == 0 and all(address % 16 == 0 for address in addresses)
    form = UNLOCKED if lock is None else GATHERED
    wide = width % _MULTIPLE == 0 and BLOCK_N <= 2 * width <= 2 * WIDEST
    if lock is not None and lock.groups == 1 and (wide or pitch):
        form = SEPARABLE
    stride = width if form == SEPARABLE or pitch else BLOCK_N
    aligned = aligned and stride % _MULTIPLE == pitch % _MULTIPLE == 0
    row = [0] * FIELDS
    row[: len(addresses)] = addresses
    row[EXTRA], row[FREE_COUNT] = _address(extra), 0 if extra is None else extra.numel()
    row[FORM], row[FAST], row[NUMEL], row[STRIDE], row[PITCH] = form, int(aligned), numel, stride, pitch or stride
    row[CODE] = dtype_code(parameter.dtype, grad.dtype, states[0].dtype if states else parameter.dtype)
    row[COLUMN_BLOCKS] = -(-stride // BLOCK_N)
    row[WIDTH], row[INNER], row[CHANNELS] = width, 1 if channels_last else elements_per_channel, channels
    lock = lock or Lock()
    row[ROWS], row[COLUMNS] = _address(lock.rows), _address(lock.columns)
    row[ROW_REPEAT], row[COLUMN_REPEAT] = lock.row_repeat, lock.column_repeat
    row[GROUP_ROWS] = (shape[0] if len(shape) else 1) // lock.groups
    return row


def _tile_rows(row: list[int]) -> int:
    """How many tiles lie under each other in the matrix of a row of the table."""
    rows = -(-row[NUMEL] // row[STRIDE])
    return -(-rows // BLOCK_M)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
