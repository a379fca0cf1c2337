"""How far each weight may still move: the rate of a parameter, from the free units along its dimensions.

An example. A linear layer has 2 output units and 3 input units, so its weight has shape (2, 3). Output unit 0 is used
by a finished task, output unit 1 is free. Input units 0 and 1 are used, input unit 2 is free:

    rows = [0, 1], columns = [0, 0, 1]        rate = [[0, 0, 1],
                                                      [1, 1, 1]]

Only the weights from used units to used units have rate 0: they keep their value. All others may move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hat_kernels.check import got


class Lock(NamedTuple):
    """The free units along the first two dimensions of a parameter of shape (R, C, ...).

    `rate(i, j) = max(rows[i], columns[j]) = 1 - min(used_rows[i], used_columns[j])`: Serrà et al. 2018, eq. 2.
    If a dimension has no units (`None`), the other dimension alone gives the rate. A bias and the weight of a first
    layer have only rows.

    Attributes:
        rows: [R / row_repeat] float32 in [0, 1], 1 where the unit is free, or None.
        columns: [C * groups / column_repeat] float32 in [0, 1], 1 where the unit is free, or None.
        row_repeat: how many consecutive rows belong to one unit.
        column_repeat: how many consecutive columns belong to one unit: after a flatten, the pixels of one channel.
        groups: the groups of a grouped convolution: the rows of group g read the columns of group g only.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    row_repeat: int = 1
    column_repeat: int = 1
    groups: int = 1


def check_lock(lock: Lock | None, parameter: Tensor, name: str = "lock") -> None:
    """Validate a lock against its parameter.

    Raises:
        TypeError: `lock` is neither a `Lock` nor None, or `rows` or `columns` is not a tensor of float32.
        ValueError: the lock has neither rows nor columns, a repeat or the number of groups is below 1 or does not
            divide a length, or a length or a device does not fit the parameter.
    """
    if lock is None:
        return
    if not isinstance(lock, Lock):
        raise TypeError(f"{name}: expected a Lock or None, got {got(lock)}")
    if not isinstance(lock.groups, int) or lock.groups < 1:
        raise ValueError(f"{name}.groups: expected an int from 1 on, got {got(lock.groups)}")
    if lock.rows is None and lock.columns is None:
        raise ValueError(f"{name}: expected rows, columns or both, got neither")
    if lock.rows is not None:
        _check_length(lock.rows, lock.row_repeat, parameter, 0, 1, f"{name}.rows")
    if lock.columns is not None:
        _check_length(lock.columns, lock.column_repeat, parameter, 1, lock.groups, f"{name}.columns")
    if lock.groups > 1 and (parameter.shape[0] % lock.groups or lock.rows is None):
        raise ValueError(f"{name}: expected rows that {lock.groups} groups divide, got {tuple(parameter.shape)}")


def check_locks(locks: Sequence[Lock | None], parameters: Sequence[Tensor]) -> None:
    """Validate a list of one lock for each parameter; see `check_lock`."""
    if not isinstance(locks, (list, tuple)):
        raise TypeError(f"locks: expected a list of locks, got {got(locks)}")
    if len(locks) != len(parameters):
        raise ValueError(f"locks: expected {len(parameters)}, one a parameter, got {len(locks)}")
    for index, (lock, parameter) in enumerate(zip(locks, parameters, strict=True)):
        if lock is not None:
            check_lock(lock, parameter, f"locks[{index}]")


def contiguous(lock: Lock) -> Lock:
    """The same lock with contiguous `rows` and `columns`, as the kernels read them."""
    rows, columns = (None if free is None else free.contiguous() for free in lock[:2])
    return lock._replace(rows=rows, columns=columns)


def rate(lock: Lock, parameter: Tensor) -> Tensor:
    """The rate of every element: float32 (float64 for a float64 parameter), broadcastable to `parameter`."""
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    tail = (1,) * (parameter.dim() - 2)
    if lock.columns is None:
        assert lock.rows is not None
        rows = _repeat(lock.rows, lock.row_repeat)
        return rows.to(dtype).view((-1, *(1,) * (parameter.dim() - 1)) if parameter.dim() else ())
    columns = _repeat(lock.columns, lock.column_repeat).to(dtype)
    if lock.rows is None:
        return columns.view(1, -1, *tail)
    rows = _repeat(lock.rows, lock.row_repeat).to(dtype)
    r, c = len(rows) // lock.groups, len(columns) // lock.groups  # not -1, which is ambiguous for no elements
    grouped = torch.maximum(rows.view(lock.groups, r, 1), columns.view(lock.groups, 1, c))
    return grouped.reshape(len(rows), c, *tail)


def _repeat(free: Tensor, times: int) -> Tensor:
    return free if times == 1 else free.repeat_interleave(times)


def _repeated(free: Tensor, repeat: int) -> str:
    return f"{tuple(free.shape)} repeated {got(repeat)} times"


def _check_length(free: Tensor, repeat: int, parameter: Tensor, dim: int, groups: int, name: str) -> None:
    if not isinstance(free, Tensor):
        raise TypeError(f"{name}: expected a tensor of torch.float32, got {got(free)}")
    if free.is_nested or free.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got {'a nested one' if free.is_nested else free.layout}")
    if not isinstance(repeat, int) or repeat < 1:
        raise ValueError(f"{name}: expected units repeated at least 1 time, got {got(repeat)}")
    if parameter.dim() <= dim and not (parameter.dim() == dim == 0):
        raise ValueError(f"{name}: expected a parameter with more than {dim} dimensions, got {parameter.dim()}")
    expected = parameter.shape[dim] * groups if parameter.dim() else 1  # a scalar is one row
    if free.dim() != 1 or free.shape[0] * repeat != expected:
        raise ValueError(f"{name}: expected {expected} units along dimension {dim}, got {_repeated(free, repeat)}")
    if free.dtype != torch.float32:
        raise TypeError(f"{name}: expected torch.float32, got {free.dtype}")
    if free.device != parameter.device:
        raise ValueError(f"{name}: expected a tensor on {parameter.device}, got {free.device}")
