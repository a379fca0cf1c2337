"""Random locks for the tests of all operations with a lock."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels import Lock
from tests.hat_kernels.shapes import generator

KINDS = ["none", "rows", "columns", "both"]


def free_units(units: int, *, soft: bool = False, seed: int = 0) -> Tensor:
    """[units] float32: a third is locked, the others are free; if `soft`, some are between locked and free."""
    values = torch.rand(units, generator=generator(seed))
    return torch.where(values < 0.4, 0.0, torch.where(values > 0.6, 1.0, values if soft else torch.ones(())))


def lock_for(parameter: Tensor, kind: str, *, soft: bool = False, seed: int = 0) -> Lock | None:
    """A lock of a kind for a parameter; a bias has only rows."""
    if kind == "none":
        return None
    rows = free_units(parameter.shape[0], soft=soft, seed=seed)
    if kind == "rows" or parameter.dim() < 2:
        return Lock(rows)
    columns = free_units(parameter.shape[1], soft=soft, seed=seed + 1)
    return Lock(None if kind == "columns" else rows, columns)


def rates(parameter: Tensor, lock: Lock | None) -> Tensor:
    """The rate of each element in float64, by its definition: max(free row, free column)."""
    if lock is None:
        return torch.ones(parameter.shape, dtype=torch.float64)
    tail = [1] * (parameter.dim() - 1)
    result = torch.zeros(parameter.shape, dtype=torch.float64)
    if lock.rows is not None:
        result = torch.maximum(result, lock.rows.double().view(-1, *tail))
    if lock.columns is not None:
        result = torch.maximum(result, lock.columns.double().view(1, -1, *tail[1:]))
    return result
