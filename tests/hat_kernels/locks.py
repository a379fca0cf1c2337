"""Random locks for tests of every operation that takes one."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels import Lock
from tests.hat_kernels.shapes import generator

KINDS = ["none", "rows", "columns", "both"]


def free_units(units: int, *, soft: bool = False, seed: int = 0) -> Tensor:
    """[units] float32, a third locked, the rest free or, if `soft`, some of them in between."""
    values = torch.rand(units, generator=generator(seed))
    return torch.where(values < 0.4, 0.0, torch.where(values > 0.6, 1.0, values if soft else torch.ones(())))


def lock_for(parameter: Tensor, kind: str, *, soft: bool = False, seed: int = 0) -> Lock | None:
    """A lock of the kind that fits the parameter; a bias has rows only."""
    if kind == "none":
        return None
    rows = free_units(parameter.shape[0], soft=soft, seed=seed)
    if kind == "rows" or parameter.dim() < 2:
        return Lock(rows)
    columns = free_units(parameter.shape[1], soft=soft, seed=seed + 1)
    return Lock(None if kind == "columns" else rows, columns)


def rates(parameter: Tensor, lock: Lock | None) -> Tensor:
    """The rate of every element in float64, by definition: max(free row, free column)."""
    if lock is None:
        return torch.ones(parameter.shape, dtype=torch.float64)
    tail = [1] * (parameter.dim() - 1)
    result = torch.zeros(parameter.shape, dtype=torch.float64)
    if lock.rows is not None:
        result = torch.maximum(result, lock.rows.double().view(-1, *tail))
    if lock.columns is not None:
        result = torch.maximum(result, lock.columns.double().view(1, -1, *tail[1:]))
    return result
