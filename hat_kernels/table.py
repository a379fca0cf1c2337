"""A list of tensors of any shapes and dtypes as one table of pointers, so that one launch serves them all.

A parameter is seen as a matrix, cut into tiles of `BLOCK_M` x `BLOCK_N` elements; a program owns `steps` tiles, one
under the other. Wide weights with a lock keep their own rows, so that the lock is loaded once a tile (SEPARABLE). Any
other tensor is one run of elements, folded into rows of `BLOCK_N`: without a lock (UNLOCKED), or with a lock that is
looked up for every element (GATHERED: biases, narrow, grouped and odd-sized weights).
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

# The fields of a row, all int64.
PARAMETER, GRAD, STATE, STATE_2, STATE_3, EXTRA, ROWS, COLUMNS = range(8)  # addresses
FORM, CODE, FAST, NUMEL, STRIDE, COLUMN_BLOCKS, FIRST_PROGRAM, FREE_COUNT = range(8, 16)
WIDTH, INNER, CHANNELS, ROW_REPEAT, COLUMN_REPEAT, GROUP_ROWS, PITCH = range(16, 23)
FIELDS = 23

UNLOCKED, SEPARABLE, GATHERED = range(3)

BLOCK_M, BLOCK_N = 4, 256
STEPS = (1, 4, 16)  # tiles a program: many where there are many, as a program that skips costs a microsecond
PROGRAMS = 4096  # what there must be left of, some waves of a large GPU
WIDEST = 2**26  # columns of a SEPARABLE weight: offsets in a tile are of 32 bits

DTYPES = {dtype: digit for digit, dtype in enumerate(dispatch.DTYPES)}

_KEPT = 512  # a step uses two a parameter group and one for the norm
_RESERVED = 2**18  # numbers, 2 MiB: tables of a network of 100 million weights take a tenth of it
_MULTIPLE = 8  # elements, 16 bytes of the narrowest dtype: what a 128-bit load needs


class Table(NamedTuple):
    """What a launch needs.

    Attributes:
        rows: [parameters * FIELDS] int64 on the device.
        owners: [programs] int64, the offset in `rows` of every program's parameter.
        length: the number of rows.
        programs: the grid.
        steps: tiles a program.
        codes: bit `dtype_code(parameter, grad, state)` is set where the table holds that combination.
    """

    rows: Tensor
    owners: Tensor
    length: int
    programs: int
    steps: int
    codes: int


class Operands(NamedTuple):
    """The tensors of one row, all of one dense layout; or rows of a larger tensor, with dense states.

    Attributes:
        channels_last: the channels are the fastest dimension of the memory.
        pitch: elements from row to row of the parameter and its gradient, which are parts of larger ones; 0: all dense.
        extra: one more vector or scalar, float32, that belongs to the parameter.
    """

    parameter: Tensor
    grad: Tensor
    states: tuple[Tensor, ...] = ()
    lock: Lock | None = None
    channels_last: bool = False
    extra: Tensor | None = None
    pitch: int = 0


def dtype_code(parameter: torch.dtype, grad: torch.dtype, state: torch.dtype) -> int:
    """One number for the dtypes of a row; `hat_kernels.tile.typed` reads its digits."""
    return DTYPES[parameter] * 9 + DTYPES[grad] * 3 + DTYPES[state]


_tables: OrderedDict[tuple[object, ...], Table] = OrderedDict()


def table(operands: Sequence[Operands], *, steps: int | None = None) -> Table:
    """The table of these operands, built once for the same addresses, shapes, dtypes and locks.

    It is a function of its key alone and refers to no tensor, so it cannot go stale. Building it is one small copy from
    pinned memory, which does not wait for the device. While a CUDA graph is captured, the copy becomes a node of the
    graph, and whatever the graph reads is kept: its host memory, or the table that an earlier step left.

    Args:
        operands: none of them empty, all on one device.
        steps: tiles a program; by default few programs for large lists.
    """
    device = operands[0].parameter.device
    key = (device, steps, *(entry for operand in operands for entry in _key(operand)))
    capturing = is_capturing(device)
    found = _tables.get(key)
    if found is None:
        found, host = _build(operands, steps, device, capturing)
        if capturing:
            hold(host)  # the device's copy is only filled when the graph runs, so no one else may use it
            return found
        _tables[key] = found
        if len(_tables) > _KEPT:
            _tables.popitem(last=False)
    elif capturing:
        hold(found)
    else:
        _tables.move_to_end(key)
    return found


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
) -> tuple[Table, Tensor]:
    rows = [_row(operand) for operand in operands]
    tiles = [_tile_rows(row) * row[COLUMN_BLOCKS] for row in rows]
    if steps is None:
        steps = max(s for s in STEPS if s == 1 or sum(tiles) >= s * PROGRAMS)
    programs, codes = 0, 0
    owners = []
    for index, row in enumerate(rows):
        own = -(-_tile_rows(row) // steps) * row[COLUMN_BLOCKS]
        row[FIRST_PROGRAM] = programs
        programs += own
        codes |= 1 << row[CODE]
        owners.append(torch.full((own,), index * FIELDS, dtype=torch.int64))
    host = torch.cat([torch.tensor(rows, dtype=torch.int64).flatten(), *owners])
    if device.type == "cuda":
        host = _Reserve.take(host) if capturing else host.pin_memory()
        _Reserve.fill(capturing)
    both = host.to(device, non_blocking=True)
    cut = len(rows) * FIELDS
    return Table(both[:cut], both[cut:], len(rows), programs, steps, codes), host


class _Reserve:
    """Pinned memory for tables that are built while a graph is captured: then none can be allocated."""

    block = torch.empty(0, dtype=torch.int64)
    used = 0

    @classmethod
    def fill(cls, capturing: bool) -> None:
        """See that there is enough for a captured step, outside of captures; what is full belongs to graphs."""
        if not capturing and cls.used >= len(cls.block) // 2:
            cls.block, cls.used = torch.empty(_RESERVED, dtype=torch.int64, pin_memory=True), 0

    @classmethod
    def take(cls, host: Tensor) -> Tensor:
        """These numbers in memory that nobody else will get."""
        if len(host) > len(cls.block) - cls.used:
            return host.pin_memory()  # which PyTorch may allow
        taken = cls.block[cls.used : cls.used + len(host)]
        cls.used += len(host)
        return taken.copy_(host)


def _row(operand: Operands) -> list[int]:
    parameter, grad, states, lock, channels_last, extra, pitch = operand
    lock = lock if lock is None or lock.rows is not None or lock.columns is not None else None
    shape, numel = parameter.shape, parameter.numel()
    channels = shape[1] if len(shape) > 1 else 1
    inner = math.prod(shape[2:])
    width = channels * inner
    addresses = [parameter.data_ptr(), grad.data_ptr(), *(state.data_ptr() for state in states)]
    fast = numel % _MULTIPLE == 0 and all(address % 16 == 0 for address in addresses)
    form = UNLOCKED if lock is None else GATHERED
    wide = width % _MULTIPLE == 0 and BLOCK_N <= 2 * width <= 2 * WIDEST
    if lock is not None and lock.groups == 1 and (wide or pitch):
        form = SEPARABLE
    stride = width if form == SEPARABLE or pitch else BLOCK_N
    fast = fast and stride % _MULTIPLE == pitch % _MULTIPLE == 0
    row = [0] * FIELDS
    row[: len(addresses)] = addresses
    row[EXTRA], row[FREE_COUNT] = _address(extra), 0 if extra is None else extra.numel()
    row[FORM], row[FAST], row[NUMEL], row[STRIDE], row[PITCH] = form, int(fast), numel, stride, pitch or stride
    row[CODE] = dtype_code(parameter.dtype, grad.dtype, states[0].dtype if states else parameter.dtype)
    row[COLUMN_BLOCKS] = -(-stride // BLOCK_N)
    row[WIDTH], row[INNER], row[CHANNELS] = width, 1 if channels_last else inner, channels
    lock = lock or Lock()
    row[ROWS], row[COLUMNS] = _address(lock.rows), _address(lock.columns)
    row[ROW_REPEAT], row[COLUMN_REPEAT] = lock.row_repeat, lock.column_repeat
    row[GROUP_ROWS] = (shape[0] if len(shape) else 1) // lock.groups
    return row


def _tile_rows(row: list[int]) -> int:
    """How many tiles lie under each other."""
    rows = -(-row[NUMEL] // row[STRIDE])
    return -(-rows // BLOCK_M)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
