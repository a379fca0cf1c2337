"""Tensors of any memory layout, made ready for a kernel that goes through their memory from end to end."""

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
    """The operands of a table, and the copies that the kernel will change instead of the tensors themselves.

    - A parameter that is contiguous or channels-last is used where it is. If its gradient or a state has another
      layout, the gradient or the state is copied into the layout of the parameter.
    - Rows of a larger tensor are used where they are, if the gradient has the same strides and the states are
      contiguous.
    - Any other parameter is copied.

    Args:
        parameters: of any shapes and layouts. Empty parameters get no operands.
        grads: one for each parameter.
        states: lists of one tensor for each parameter.
        locks: one for each parameter, or None.
        extras: one for each parameter, or None.

    Returns:
        The operands, and pairs (tensor, copy) for `restore`.
    """
    operands, copies = [], []
    for index, parameter in enumerate(parameters):
        if not parameter.numel():
            continue
        lock = None if locks is None else locks[index]
        lock = None if lock is None else contiguous(lock)
        extra = None if extras is None else extras[index]
        parameter_states = [state[index] for state in states]
        if _is_rows(parameter) and all(state.is_contiguous() for state in parameter_states):
            grad = grads[index]
            if grad.stride() == parameter.stride():
                pitch = parameter.stride(0)
                operands.append(Operands(parameter, grad, tuple(parameter_states), lock, False, extra, pitch))
                continue
        channels_last = False
        if not parameter.is_contiguous():
            channels_last = _is_channels_last(parameter)
        changed = [parameter, *parameter_states]
        dense = [_dense(tensor, channels_last) for tensor in changed]
        copies += [(tensor, copy) for tensor, copy in zip(changed, dense, strict=True) if tensor is not copy]
        grad = _dense(grads[index], channels_last)
        operands.append(Operands(dense[0], grad, tuple(dense[1:]), lock, channels_last, extra))
    return operands, copies


def restore(copies: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Write each copy, which a kernel has changed, back into its tensor; unchanged elements keep their bits."""
    for tensor, copy in copies:
        tensor.copy_(copy)


def scalar(value: Tensor | None, device: torch.device) -> Tensor | None:
    """A tensor of one element as a kernel loads it: float32 on `device`."""
    return None if value is None else value.to(device=device, dtype=torch.float32)


def _dense(tensor: Tensor, channels_last: bool) -> Tensor:
    memory_format = torch.contiguous_format
    if channels_last:
        memory_format = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
    return tensor.contiguous(memory_format=memory_format)  # the tensor itself if it has this layout


def _is_rows(parameter: Tensor) -> bool:
    """Whether a parameter is rows of a larger tensor: neighbouring elements in a row, and gaps between the rows."""
    if parameter.dim() < 2 or parameter.is_contiguous() or len(parameter) < 2:
        return False
    return parameter[0].is_contiguous() and parameter[0].numel() < parameter.stride(0) <= WIDEST


def _is_channels_last(parameter: Tensor) -> bool:
    if parameter.dim() == 4:
        return parameter.is_contiguous(memory_format=torch.channels_last)
    return parameter.dim() == 5 and parameter.is_contiguous(memory_format=torch.channels_last_3d)


def number_or_scalar(value: float | Tensor, device: torch.device) -> tuple[float, Tensor | None]:
    """(number, None) for a number that the host can read, (0, tensor) for one that only the device can read."""
    if isinstance(value, Tensor) and value.device == device:
        return 0.0, scalar(value, device)
    return float(value), None  # also for a tensor on the CPU, which the host can read


def flatten(locks: Sequence[Lock | None]) -> tuple[list[Tensor | None], list[Tensor | None], list[int]]:
    """Locks as lists that the schema of an operator allows: rows, columns, and four numbers for each lock.

    The four numbers are 1 for a lock and 0 for None, the repeats of rows and of columns, and the groups.
    """
    filled = [lock or Lock() for lock in locks]
    numbers = [n for lock, values in zip(locks, filled, strict=True) for n in (lock is not None, *values[2:])]
    return [lock.rows for lock in filled], [lock.columns for lock in filled], [int(n) for n in numbers]


def unflatten(
    rows: Sequence[Tensor | None], columns: Sequence[Tensor | None], numbers: Sequence[int]
) -> list[Lock | None]:
    """The locks from the lists that `flatten` returned."""
    numbers_by_lock = [numbers[start : start + 4] for start in range(0, len(numbers), 4)]
    return [
        Lock(row, column, row_repeat, column_repeat, groups) if is_lock else None
        for row, column, (is_lock, row_repeat, column_repeat, groups) in zip(
            rows, columns, numbers_by_lock, strict=True
        )
    ]


def split_number(value: float | Tensor) -> tuple[float, Tensor | None]:
    """(number, None) or (0, tensor): the schema of an operator has no argument that may be a number or a tensor."""
    return (0.0, value) if isinstance(value, Tensor) else (value, None)
