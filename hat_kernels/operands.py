"""Tensors of any layout made ready for a kernel that walks memory from end to end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat_kernels.lock import Lock, contiguous
from hat_kernels.table import WIDEST, Operands


def arrange(
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Sequence[Tensor]] = (),
    locks: Sequence[Lock | None] | None = None,
    extras: Sequence[Tensor] | None = None,
) -> tuple[list[Operands], list[tuple[Tensor, Tensor]]]:
    """(operands, copies): what a table is made of, without the empty ones, and what `restore` must write back.

    Contiguous and channels-last parameters are used where they lie, and a gradient of another layout is copied into
    theirs. So are rows of a larger parameter, if their gradients are rows of a like one. Any other parameter is copied,
    and so is a state of another layout.

    Args:
        states: lists of one tensor a parameter each, as long as `parameters`.
        locks, extras: one a parameter.
    """
    operands, copies = [], []
    for index, parameter in enumerate(parameters):
        if not parameter.numel():
            continue
        lock = None if locks is None else locks[index]
        lock = None if lock is None else contiguous(lock)
        extra = None if extras is None else extras[index]
        own = [parameter, *(state[index] for state in states)]
        if _is_rows(parameter) and all(state.is_contiguous() for state in own[1:]):
            grad = grads[index]
            if grad.stride() == parameter.stride():
                operands.append(Operands(parameter, grad, tuple(own[1:]), lock, False, extra, parameter.stride(0)))
                continue
        channels_last = False
        if not parameter.is_contiguous():
            channels_last = _is_channels_last(parameter)
        dense = [_dense(tensor, channels_last) for tensor in own]
        copies += [(tensor, copy) for tensor, copy in zip(own, dense, strict=True) if tensor is not copy]
        grad = _dense(grads[index], channels_last)
        operands.append(Operands(dense[0], grad, tuple(dense[1:]), lock, channels_last, extra))
    return operands, copies


def restore(copies: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Write copies that a kernel has changed back to the tensors they were made of; a copy keeps bits."""
    for tensor, copy in copies:
        tensor.copy_(copy)


def scalar(value: Tensor | None, device: torch.device) -> Tensor | None:
    """A one-element tensor that a kernel can load, as float32 on the device."""
    return None if value is None else value.to(device=device, dtype=torch.float32)


def _dense(tensor: Tensor, channels_last: bool) -> Tensor:
    memory_format = torch.contiguous_format
    if channels_last:
        memory_format = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
    return tensor.contiguous(memory_format=memory_format)  # itself where it is already


def _is_rows(parameter: Tensor) -> bool:
    """Rows of neighbouring elements, one more than its length from the next: part of a larger tensor."""
    if parameter.dim() < 2 or parameter.is_contiguous() or len(parameter) < 2:
        return False
    return parameter[0].is_contiguous() and parameter[0].numel() < parameter.stride(0) <= WIDEST


def _is_channels_last(parameter: Tensor) -> bool:
    if parameter.dim() == 4:
        return parameter.is_contiguous(memory_format=torch.channels_last)
    return parameter.dim() == 5 and parameter.is_contiguous(memory_format=torch.channels_last_3d)


def number_or_scalar(value: float | Tensor, device: torch.device) -> tuple[float, Tensor | None]:
    """(number, None), or (0, tensor) for a number that the device holds."""
    if isinstance(value, Tensor) and value.device == device:
        return 0.0, scalar(value, device)
    return float(value), None  # of a tensor on the CPU too: it is there to read


def flatten(locks: Sequence[Lock | None]) -> tuple[list[Tensor | None], list[Tensor | None], list[int]]:
    """Locks as an operator's schema can name them: rows, columns and four numbers each."""
    known = [lock or Lock() for lock in locks]
    numbers = [n for lock, k in zip(locks, known, strict=True) for n in (lock is not None, *k[2:])]
    return [lock.rows for lock in known], [lock.columns for lock in known], [int(n) for n in numbers]


def unflatten(
    rows: Sequence[Tensor | None], columns: Sequence[Tensor | None], numbers: Sequence[int]
) -> list[Lock | None]:
    """What `flatten` was given."""
    each = [numbers[start : start + 4] for start in range(0, len(numbers), 4)]
    return [
        Lock(row, column, row_repeat, column_repeat, groups) if is_lock else None
        for row, column, (is_lock, row_repeat, column_repeat, groups) in zip(rows, columns, each, strict=True)
    ]


def split_number(value: float | Tensor) -> tuple[float, Tensor | None]:
    """(number, None) or (0, tensor): a schema has no argument that may be either."""
    return (0.0, value) if isinstance(value, Tensor) else (value, None)
