"""What units that join a network start from: as if they had been there from the beginning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hat.layers.gated_norm import GatedNorm
from hat.units.change import Change, Changes
from hat.units.gate import Gate
from hat.units.per_task import PerTask
from hat.units.redrawn import drawn

_NEUTRAL = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
"""Of a norm."""


def fill_joined(body: nn.Module, changes: Changes) -> None:
    """Draw the weights of units that have joined, in place, as the layers that have them draw their own."""
    joined = {parameter for parameter, own in changes.items() if any(change.joined.any() for change in own)}
    layers = [module for module in body.modules() if not isinstance(module, PerTask | Gate)]
    layers = [layer for layer in layers if joined & {p for p in layer._parameters.values() if p is not None}]
    for parameter, values in drawn(layers).items():
        for change in changes[parameter] if parameter in joined else ():
            parameter.data = torch.where(change.mask(parameter), values, parameter.data)


def fresh_stack(module: PerTask, name: str, values: Tensor, tasks: int, changes: Sequence[Change]) -> Tensor:
    """[..., new length, ...] what a task has of its own; no finished one sees what has joined, so anything finite does.

    Args:
        tasks: how many dimensions of tasks come before those that change.
    """
    shifted = [change._replace(dim=change.dim + tasks) for change in changes]
    found = values
    for change in shifted:
        index = change.places.flatten().to(values.device)
        found = found.index_select(change.dim, index)
        neutral = _NEUTRAL.get(name) if isinstance(module, GatedNorm) else None
        if neutral is not None:
            where = change.joined.flatten().nonzero().flatten().to(values.device)
            found = found.index_fill(change.dim, where, neutral)
    return found.detach().clone()


def fresh_head(head: nn.Linear, change: Change) -> None:
    """Let a head that is being learned read what has joined."""
    like = nn.Linear(head.in_features, head.out_features, device=head.weight.device, dtype=head.weight.dtype)
    head.weight.data = torch.where(change.mask(head.weight), like.weight.data, head.weight.data)
