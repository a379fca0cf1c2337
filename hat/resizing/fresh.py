"""What units that join a network start from: as if they had been there from the beginning."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hat.gated_norm import GatedNorm
from hat.per_task import PerTask
from hat.resizing.parameters import Change, Changes

_NEUTRAL = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
"""Of a norm."""


def fill_joined(body: nn.Module, changes: Changes) -> None:
    """Draw the weights of units that have joined, in place, as the layer that has them draws its own.

    What is drawn by no layer, as a table of positions, is drawn from the values that are there: one of the same row,
    each as likely.
    """
    seen: set[Tensor] = set()
    for module in body.modules():
        own = {name: p for name, p in module._parameters.items() if p is not None and p in changes and p not in seen}
        joined = {name: p for name, p in own.items() if any(change.joined.any() for change in changes[p])}
        if not joined or isinstance(module, PerTask):
            continue
        seen.update(joined.values())
        drawn = _drawn(module)
        for name, parameter in joined.items():
            values = drawn.get(name)
            if values is None:
                values = _drawn_from(parameter, changes[parameter])
            for change in changes[parameter]:
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


def _drawn(module: nn.Module) -> dict[str, Tensor]:
    """New values for the parameters of a layer that knows how to draw them."""
    if not hasattr(module, "reset_parameters"):
        return {}
    like: Any = copy.copy(module)
    like.__dict__["_parameters"] = {
        name: None if p is None else nn.Parameter(torch.zeros_like(p), p.requires_grad)
        for name, p in module._parameters.items()
    }
    like.reset_parameters()
    return {name: p.data for name, p in like._parameters.items() if p is not None}


def _drawn_from(parameter: Tensor, changes: Sequence[Change]) -> Tensor:
    """Values of its own, along the last dimension that changes."""
    dim = changes[-1].dim
    old = (~changes[-1].joined.flatten()).nonzero().flatten().to(parameter.device)
    rows = parameter.data.index_select(dim, old).movedim(dim, -1)
    picks = torch.randint(len(old), (*rows.shape[:-1], parameter.shape[dim]), device=parameter.device)
    return rows.gather(-1, picks).movedim(-1, dim)
