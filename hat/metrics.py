"""What continual learning is judged by, from the matrix of accuracies over tasks and time.

Throughout, `accuracy` [T, T] holds in row t, column k the share in [0, 1] of task k's test set answered right
after task t was learned. Only k <= t is read; above the diagonal anything may stand, NaN by custom. Tensors
and nested lists are taken; everything is computed in float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hat.text import aligned


def average_accuracy(accuracy: Any) -> float:
    """Mean accuracy over all T tasks after the last one was learned: the mean of the last row, in [0, 1].

    Raises ValueError if `accuracy` is not square or leaves [0, 1] on or below the diagonal.
    """
    return float(learned_part(accuracy)[-1].mean())


def learning_accuracy(accuracy: Any) -> float:
    """Mean over tasks of the accuracy right after learning each: the mean of the diagonal, in [0, 1].

    Raises ValueError as `average_accuracy` does.
    """
    return float(learned_part(accuracy).diagonal().mean())


def backward_transfer(accuracy: Any) -> float:
    """Mean change since learning of all tasks but the last, in [-1, 1]: negative means forgetting.

    `1 / (T - 1) sum over k < T of R[T, k] - R[k, k]`, Lopez-Paz & Ranzato 2017; 0.0 for a single task.
    Raises ValueError as `average_accuracy` does.
    """
    matrix = learned_part(accuracy)
    change = matrix[-1, :-1] - matrix.diagonal()[:-1]
    return float(change.mean()) if len(change) else 0.0


def forgetting_ratio(accuracy: Any, joint: Any, random: Any) -> Tensor:
    """How much is lost against learning all tasks at once, [T] float64: entry t averages over tasks k <= t.

    `rho[k, t] = (A[t, k] - A_random[k]) / (A_joint[t, k] - A_random[k]) - 1`, Serrà et al. 2018: 0 is as good
    as joint training, -1 as bad as guessing. The last entry is what the paper reports after all tasks. A task on
    which joint training is no better than guessing (it has one class, or was not learned) has no ratio and is left
    out of the mean; an entry with no task left is NaN.

    joint: [T], the accuracy of joint training on each task, or [T, T], row t trained on the tasks up to t.
    random: [T], the accuracy of guessing.
    Raises ValueError as `average_accuracy` does.
    """
    matrix = learned_part(accuracy)
    tasks, past = len(matrix), _past(len(matrix))
    guess = fractions(random, "random", (tasks,))
    best = as_tensor(joint, "joint")
    best = learned_part(best, "joint") if best.ndim == 2 else best.expand(tasks, -1) if best.ndim else best
    if best.shape != matrix.shape:
        raise ValueError(f"joint: expected shape ({tasks},) or ({tasks}, {tasks}), got {tuple(best.shape)}")
    fractions(best[past], "joint", (int(past.sum()),))
    margin = best - guess
    counted = past & (margin > 0)
    ratio = torch.where(counted, (matrix - guess) / margin - 1, 0.0)
    return ratio.sum(1) / counted.sum(1)


def table(names: Sequence[str], learned: Any, now: Any, *, extra: Mapping[str, Any] | None = None) -> str:
    """A plain-text table of percentages, one row a task and a last row of means, columns aligned.

    names: T task names. learned, now: [T] accuracies in [0, 1] when the task was learned and at present.
    extra: more columns by heading, each [T], such as `{"alone": [...], "joint": [...]}`. NaN prints as "-"
    and is left out of the mean. Raises ValueError for lengths that differ or values outside [0, 1].
    """
    if not len(names):
        raise ValueError("names: expected at least one task, got none")
    rows = [["task"], *([" ".join(str(name).split())] for name in names), ["mean"]]
    for heading, column in [("learned", learned), ("now", now), *(extra or {}).items()]:
        values = fractions(column, heading, (len(names),), blank=True)
        shares = [*values.tolist(), float(values.nanmean())]
        for row, cell in zip(rows, [heading, *map(_percent, shares)], strict=True):
            row.append(cell)
    lines = aligned(rows, numbers=range(1, len(rows[0])))
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def fractions(values: Any, argument: str, shape: tuple[int, ...], *, blank: bool = False) -> Tensor:
    """`values` as a float64 CPU tensor of `shape`, every one in [0, 1] (or, if `blank`, NaN).

    Raises ValueError that names `argument`.
    """
    tensor = as_tensor(values, argument)
    if tensor.shape != shape:
        raise ValueError(f"{argument}: expected shape {shape}, got {tuple(tensor.shape)}")
    right = (tensor >= 0) & (tensor <= 1)
    if blank:
        right |= tensor.isnan()
    if not bool(right.all()):
        raise ValueError(f"{argument}: expected values from 0 to 1, got {float(tensor[~right][0]):g}")
    return tensor


def learned_part(accuracy: Any, argument: str = "accuracy") -> Tensor:
    """`accuracy` [T, T], checked on and below the diagonal, with NaN above it. Raises as `fractions` does."""
    matrix = as_tensor(accuracy, argument)
    tasks = max(1, len(matrix) if matrix.ndim else 0)
    if matrix.shape != (tasks, tasks):
        raise ValueError(f"{argument}: expected a square matrix [T, T], got {tuple(matrix.shape)}")
    past = _past(tasks)
    fractions(matrix[past], argument, (int(past.sum()),))
    return torch.where(past, matrix, math.nan)


def as_tensor(values: Any, argument: str) -> Tensor:
    """Nested lists, arrays, tensors or lists of tensors as one float64 CPU tensor. Raises ValueError."""
    try:
        if isinstance(values, (list, tuple)) and values and all(isinstance(row, Tensor) for row in values):
            values = torch.stack(list(values))
        return torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{argument}: expected numbers in rows of one length, got {error}") from None


def _past(tasks: int) -> Tensor:
    return torch.ones(tasks, tasks, dtype=torch.bool).tril()


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}%"
