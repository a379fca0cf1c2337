"""Batches that mix tasks: every sample has its own task id.

Example: four samples with the tasks [3, 0, 3, 3]. The head of task 0 has 2 classes, the head of task 3 has 5.

    rows           {0: [1], 3: [0, 2, 3]}   the rows of the batch by task
    features       [4, F]                   one pass through the body; row 1 passes the gates of task 0, the others
                                            those of task 3
    logits         [4, 5]                   row 1 has 2 logits and then -inf three times

On a CPU, each head multiplies its rows. On a GPU, `batched` does one batched product for all heads:

    rows read      [1, 1, 1, 0, 2, 3]       3 rows for each task, as task 3 has; row 1 is repeated as padding
    product        [2, 3, F] x [2, F, 5]    the head of task 0 gets 3 classes with weights 0 and bias -inf
    places         [3, 0, 4, 5]             where the results of rows 0, 1, 2 and 3 are among the 6 results

If the body cannot take the batch in one pass, see `hat.network.mixed_trial`, each task passes through the body by
itself with its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.network.mixed_trial import in_one_pass
from hat.network.network import Network
from hat.tracing.trees import flat, replaced, tensors
from hat.units.state import PerSample
from hat_kernels.dispatch import free_to_read

ABSENT = float("-inf")
"""The logit of a class that a task does not have."""
_MOST_PADDING = 4
"""How many times the batch the padded rows may be. Beyond, one product for each task is less work than a padded one."""

Rows = dict[int, list[int]]
"""The rows of every task that is present, by task in order."""


def mixed(model: Network, x: Any, task: Tensor) -> Tensor:
    """The logits [B, ..., C] of a batch that mixes tasks; see `HATModel.forward`.

    Args:
        model: the network.
        x: the input of the body.
        task: [B] integers, the task of every sample.

    Raises:
        TypeError: `task` does not hold integers.
        ValueError: `x` has no batch, `task` has another length than the batch, or a task is not finished or forgotten.
    """
    batch = next((tensor for tensor in tensors(x) if tensor.dim()), None)
    if batch is None:
        raise ValueError("x: expected a tensor with a batch dimension, as task is a tensor, got none")
    ids = _ids(task, len(batch))
    model.check_finished(ids)
    rows = rows_of(ids)
    if len(rows) == 1:
        return model.answer(x, *rows)
    if not _takes(model, x, batch):
        return in_parts(x, rows, model.answer)
    return logits(model.features_of(x, PerSample(task.to(batch.device, torch.int64))), rows, model.heads)


def _takes(model: Network, x: Any, batch: Tensor) -> bool:
    """Whether one pass gives the right answer for a batch of this kind, as `in_one_pass` finds out once.

    The kind is all that the way of a batch through the body can depend on, except for values: the shapes, the dtypes,
    the modes of the modules and autocast.
    """
    kind = (
        tuple((v.shape, v.dtype, v.device) if isinstance(v, Tensor) else repr(v) for v in flat(x, keys=True)),
        tuple(module.training for module in model.body.modules()),
        tuple(sorted({str(parameter.dtype) for parameter in model.body.parameters()})),
        torch.is_autocast_enabled(batch.device.type),
    )
    known = model.mixing.get(kind)
    if known is None and (known := in_one_pass(model, x, batch)) is not None:
        model.mixing[kind] = known
    return bool(known)  # None: this batch has shown nothing


def _ids(task: Tensor, batch: int) -> list[int]:
    """The task ids as numbers. If `task` is on a GPU, the host waits for it.

    Raises:
        TypeError: `task` does not hold integers.
        ValueError: `task` is empty, or has another shape than [batch].
    """
    if task.is_floating_point() or task.is_complex() or task.dtype == torch.bool:
        raise TypeError(f"task: expected int64, got {task.dtype}")
    if task.shape != (batch,):
        raise ValueError(f"task: expected one id for every sample, shape ({batch},), got {tuple(task.shape)}")
    if not batch:
        raise ValueError("task: expected at least one sample, got none")
    ids: list[int] = task.tolist()
    return ids


def rows_of(ids: Sequence[int]) -> Rows:
    """The rows of each task, by task in order."""
    rows: Rows = {task: [] for task in sorted(set(ids))}
    for row, task in enumerate(ids):
        rows[task].append(row)
    return rows


def in_parts(x: Any, rows: Rows, answer: Callable[[Any, int], Tensor]) -> Tensor:
    """The logits [B, ..., C] of a batch, computed for one task after the other.

    Args:
        x: a tensor or a container of tensors. A tensor whose first dimension is the batch is cut into the rows of each
            task. Any other tensor goes to all tasks unchanged.
        rows: the rows of each task.
        answer: (input, task) -> logits.
    """
    batch = sum(map(len, rows.values()))

    def rows_of_batch(task_rows: list[int]) -> Any:
        def pick(value: Any) -> Any:
            has_rows = isinstance(value, Tensor) and value.dim() and len(value) == batch
            return value.index_select(0, _index(task_rows, value)) if has_rows else value

        return replaced(x, pick)

    return _united([answer(rows_of_batch(task_rows), task) for task, task_rows in rows.items()], rows)


def logits(features: Tensor, rows: Rows, heads: Sequence[Any] | nn.ModuleList) -> Tensor:
    """The logits [B, ..., C] of features [B, ..., F], each row through the head of its task.

    A CPU does one product for each task, which reads each head once. A GPU does one batched product for all tasks: a
    handful of launches for any number of tasks. If the numbers of rows are so uneven that most of the batched product
    would be padding, the GPU does one product for each task, too.

    Args:
        features: [B, ..., F].
        rows: the rows of each task.
        heads: the head of every task, by task id.
    """
    longest = max(map(len, rows.values()))
    if free_to_read(features) or len(rows) * longest > _MOST_PADDING * len(features):
        index = _index([row for task_rows in rows.values() for row in task_rows], features)
        pieces = features.index_select(0, index).split([len(task_rows) for task_rows in rows.values()])
        return _united([heads[task](piece) for task, piece in zip(rows, pieces, strict=True)], rows)
    return batched(features, rows, [heads[task] for task in rows])


def batched(features: Tensor, rows: Rows, heads: Sequence[Any]) -> Tensor:
    """`logits` as one batched product.

    Every task is padded to the rows of the most frequent task, and every head to the classes of the widest head.

    Args:
        features: [B, ..., F].
        rows: the rows of each task.
        heads: the head of every task in `rows`, in the order of `rows`.
    """
    longest, widths = max(map(len, rows.values())), [head.out_features for head in heads]
    places = [0] * len(features)
    for number, task_rows in enumerate(rows.values()):
        for offset, row in enumerate(task_rows):
            places[row] = number * longest + offset
    padded = [row for task_rows in rows.values() for row in [*task_rows, *task_rows[:1] * (longest - len(task_rows))]]
    index = _index([*padded, *places], features)  # both in one copy from the host
    weight, bias = _stacked(heads, widths)
    x = features.index_select(0, index[: len(padded)]).view(len(heads), -1, features.shape[-1])
    y = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
    return y.view(len(padded), *features.shape[1:-1], max(widths)).index_select(0, index[len(padded) :])


def _stacked(heads: Sequence[Any], widths: list[int]) -> tuple[Tensor, Tensor]:
    """The weights [P, C, F] and biases [P, C] of P heads. A missing class has weights 0 and bias -inf."""
    weights, biases, widest = [head.weight for head in heads], [head.bias for head in heads], max(widths)
    if min(widths) == widest:
        return torch.stack(weights), torch.stack(biases)
    weight = torch.cat([*weights, torch.zeros_like(weights[0][:1])])
    bias = torch.cat([*biases, torch.full_like(biases[0][:1], ABSENT)])
    class_rows, first_row = [], 0
    for width in widths:
        class_rows += [*range(first_row, first_row + width), *[sum(widths)] * (widest - width)]
        first_row += width
    index = _index(class_rows, weight)
    return weight[index].view(len(heads), widest, -1), bias[index].view(len(heads), widest)


def _united(parts: list[Tensor], rows: Rows) -> Tensor:
    """The logits of all tasks in the order of the batch, padded with -inf to the widest.

    Args:
        parts: the logits of the rows of each task, in the order of `rows`.
        rows: the rows of each task.
    """
    widest = max(part.shape[-1] for part in parts)
    wide = [part if part.shape[-1] == widest else _widened(part, widest) for part in parts]
    places = [0] * sum(map(len, rows.values()))
    for place, row in enumerate(row for task_rows in rows.values() for row in task_rows):
        places[row] = place
    return torch.cat(wide).index_select(0, _index(places, wide[0]))


def _widened(part: Tensor, widest: int) -> Tensor:
    return F.pad(part, (0, widest - part.shape[-1]), value=ABSENT)


def _index(places: list[int], like: Tensor) -> Tensor:
    return torch.tensor(places).to(like.device, non_blocking=True)
