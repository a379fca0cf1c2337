"""Batches in which every sample has a task of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.network.mixed_trial import in_one_pass
from hat.network.network import Network
from hat.tracing.trees import replaced, tensors
from hat.units.state import PerSample
from hat_kernels.dispatch import free_to_read

ABSENT = float("-inf")
"""The logit of a class that a task does not have."""
_MOST_PADDING = 4  # times the batch: with more of it a product for each task is less work than one for all

Rows = dict[int, list[int]]
"""The rows of every task that is present, by task in order."""


def mixed(model: Network, x: Any, task: Tensor) -> Tensor:
    """The logits [B, ..., C] of a batch with a task a sample; see `HATModel.forward`."""
    batch = next((tensor for tensor in tensors(x) if tensor.dim()), None)
    if batch is None:
        raise ValueError("x: expected a batch beside a task a sample, got no tensor with a dimension")
    ids = _ids(task, len(batch))
    model.check_finished(ids)
    rows = rows_of(ids)
    if len(rows) == 1:
        return model.answer(x, *rows)
    if model.mixes is None:
        model.mixes = in_one_pass(model, x, batch)
    if not model.mixes:  # nor where this batch could not tell
        return in_parts(x, rows, model.answer)
    return logits(model.features_of(x, PerSample(task.to(batch.device, torch.int64))), rows, model.heads)


def _ids(task: Tensor, batch: int) -> list[int]:
    """The ids as numbers; on a GPU the host waits for them."""
    if task.is_floating_point() or task.is_complex() or task.dtype == torch.bool:
        raise TypeError(f"task: expected int64, got {task.dtype}")
    if task.shape != (batch,):
        raise ValueError(f"task: expected one a sample, shape ({batch},), got {tuple(task.shape)}")
    if not batch:
        raise ValueError("task: expected at least one sample, got none")
    ids: list[int] = task.tolist()
    return ids


def rows_of(ids: Sequence[int]) -> Rows:
    """The rows of each task."""
    rows: Rows = {each: [] for each in sorted(set(ids))}
    for row, each in enumerate(ids):
        rows[each].append(row)
    return rows


def in_parts(x: Any, rows: Rows, answer: Callable[[Any, int], Tensor]) -> Tensor:
    """Each task by itself on its rows, put together again.

    Args:
        x: a tensor, or a container of them; one whose first dimension is not the batch goes to all tasks.
        rows: of each task.
        answer: (inputs, task) to logits.
    """
    batch = sum(map(len, rows.values()))

    def part(own: list[int]) -> Any:
        def taken(value: Any) -> Any:
            along = isinstance(value, Tensor) and value.dim() and len(value) == batch
            return value.index_select(0, _index(own, value)) if along else value

        return replaced(x, taken)

    return _united([answer(part(own), task) for task, own in rows.items()], rows)


def logits(features: Tensor, rows: Rows, heads: Sequence[Any] | nn.ModuleList) -> Tensor:
    """What the heads make of features [B, ..., F] that are already those of the tasks: [B, ..., C].

    On a CPU a product a task, which reads each head once; elsewhere one batched product for all of them, a handful of
    launches for any number of tasks, unless they are so uneven that it would be mostly padding.
    """
    most = max(map(len, rows.values()))
    if free_to_read(features) or len(rows) * most > _MOST_PADDING * len(features):
        order = _index([row for own in rows.values() for row in own], features)
        pieces = features.index_select(0, order).split([len(own) for own in rows.values()])
        return _united([heads[task](piece) for task, piece in zip(rows, pieces, strict=True)], rows)
    return batched(features, rows, [heads[task] for task in rows])


def batched(features: Tensor, rows: Rows, heads: Sequence[Any]) -> Tensor:
    """`logits` with as many rows for each task as the most frequent one has, and as many classes as the widest."""
    most, widths = max(map(len, rows.values())), [head.out_features for head in heads]
    places = [0] * len(features)
    for first, own in enumerate(rows.values()):
        for offset, row in enumerate(own):
            places[row] = first * most + offset
    taken = [row for own in rows.values() for row in [*own, *own[:1] * (most - len(own))]]
    index = _index([*taken, *places], features)  # one copy from the host for both
    weight, bias = _stacked(heads, widths)
    x = features.index_select(0, index[: len(taken)]).view(len(heads), -1, features.shape[-1])
    y = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
    return y.view(len(taken), *features.shape[1:-1], max(widths)).index_select(0, index[len(taken) :])


def _stacked(heads: Sequence[Any], widths: list[int]) -> tuple[Tensor, Tensor]:
    """[P, C, F] and [P, C]; a head with fewer classes ends with weights 0 and biases -inf."""
    weights, biases, widest = [head.weight for head in heads], [head.bias for head in heads], max(widths)
    if min(widths) == widest:
        return torch.stack(weights), torch.stack(biases)
    weight = torch.cat([*weights, torch.zeros_like(weights[0][:1])])
    bias = torch.cat([*biases, torch.full_like(biases[0][:1], ABSENT)])
    chosen, first = [], 0
    for width in widths:
        chosen += [*range(first, first + width), *[sum(widths)] * (widest - width)]
        first += width
    index = _index(chosen, weight)
    return weight[index].view(len(heads), widest, -1), bias[index].view(len(heads), widest)


def _united(parts: list[Tensor], rows: Rows) -> Tensor:
    """Rows task by task, back in the order of the batch, as wide as the widest."""
    widest = max(part.shape[-1] for part in parts)
    wide = [part if part.shape[-1] == widest else _widened(part, widest) for part in parts]
    places = [0] * sum(map(len, rows.values()))
    for place, row in enumerate(row for own in rows.values() for row in own):
        places[row] = place
    return torch.cat(wide).index_select(0, _index(places, wide[0]))


def _widened(part: Tensor, widest: int) -> Tensor:
    return F.pad(part, (0, widest - part.shape[-1]), value=ABSENT)


def _index(places: list[int], like: Tensor) -> Tensor:
    return torch.tensor(places).to(like.device, non_blocking=True)
