"""The first values of units that join a network: drawn as if the units had been there from the beginning."""

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
"""The values of a norm that has learned nothing."""


def fill_joined(body: nn.Module, changes: Changes) -> None:
    """Draw the weights of new units, in place. Each layer draws them as it draws its weights at the start.

    Args:
        body: its parameters have their new shapes.
        changes: the changes of every parameter.
    """
    joined = {parameter for parameter, listed in changes.items() if any(change.joined.any() for change in listed)}
    layers = [module for module in body.modules() if not isinstance(module, PerTask | Gate)]
    layers = [layer for layer in layers if joined & {p for p in layer._parameters.values() if p is not None}]
    for parameter, values in drawn(layers).items():
        for change in changes[parameter] if parameter in joined else ():
            parameter.data = torch.where(change.mask(parameter), values, parameter.data)


def fresh_stack(module: PerTask, name: str, values: Tensor, tasks: int, changes: Sequence[Change]) -> Tensor:
    """The values [..., new length, ...] that tasks have of their own, after units have gone or joined.

    Finished tasks do not see new units, so any finite value would do: norms get neutral values there, other modules a
    copy of the unit in front.

    Args:
        module: the owner.
        name: the name of the tensor in `module`.
        values: the old values.
        tasks: how many dimensions of tasks come before the dimensions of the tensor.
        changes: the changes of the tensor's dimensions.
    """
    shifted = [change._replace(dim=change.dim + tasks) for change in changes]
    resized = values
    for change in shifted:
        index = change.places.flatten().to(values.device)
        resized = resized.index_select(change.dim, index)
        neutral = _NEUTRAL.get(name) if isinstance(module, GatedNorm) else None
        if neutral is not None:
            places_joined = change.joined.flatten().nonzero().flatten().to(values.device)
            resized = resized.index_fill(change.dim, places_joined, neutral)
    return resized.detach().clone()


def fresh_head(head: nn.Linear, change: Change) -> None:
    """Draw the weights with which a head that is being learned reads new units.

    Args:
        head: its weight has the new shape.
        change: the change of the columns.
    """
    fresh = nn.Linear(head.in_features, head.out_features, device=head.weight.device, dtype=head.weight.dtype)
    head.weight.data = torch.where(change.mask(head.weight), fresh.weight.data, head.weight.data)
