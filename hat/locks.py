"""What may move: the lock of every shared parameter, read from the gates that it lies along."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hat.gate import Gate
from hat_kernels import Lock


def gates(body: nn.Module) -> dict[str, Gate]:
    """The gates of a network by name, each once, in the order of its modules."""
    return {name: module for name, module in body.named_modules() if isinstance(module, Gate)}


def locks(body: nn.Module) -> dict[Tensor, Lock]:
    """The lock of every parameter that lies along a gate's axis, as of now.

    A parameter of a module outside `body` that a gate of `body` knows is included; a parameter along no gate is not.
    """
    found: dict[Tensor, Lock] = {}
    for gate in gates(body).values():
        free = gate.free
        for member in gate.members:
            parameter = member.parameter
            if parameter is None:
                continue
            lock = found.get(parameter, Lock())
            if member.dim == 0:
                rows, repeat = _both(lock.rows, lock.row_repeat, free, member.repeat)
                lock = lock._replace(rows=rows, row_repeat=repeat)
            else:
                columns, repeat = _both(lock.columns, lock.column_repeat, free, member.repeat)
                lock = lock._replace(columns=columns, column_repeat=repeat, groups=member.groups)
            found[parameter] = lock
    return found


def _both(before: Tensor | None, before_repeat: int, free: Tensor, repeat: int) -> tuple[Tensor, int]:
    """The free units of a dimension that lies along two gates, tied weights or a sum of two layers: free in both."""
    if before is None:
        return free, repeat
    if before_repeat == repeat:
        return torch.minimum(before, free), repeat
    return torch.minimum(before.repeat_interleave(before_repeat), free.repeat_interleave(repeat)), 1


def unlocked(body: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a network that lie along no gate: they are frozen when the first task ends."""
    own = {id(gate.embedding) for gate in gates(body).values()} | {id(p) for p in locks(body)}
    return {name: p for name, p in body.named_parameters() if id(p) not in own}


def frozen_lock(parameter: Tensor) -> Lock:
    """A lock that lets nothing of `parameter` move."""
    return Lock(rows=torch.zeros(1, device=parameter.device), row_repeat=parameter.shape[0] if parameter.dim() else 1)
