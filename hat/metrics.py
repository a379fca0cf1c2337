"""The measures of continual learning, computed from the matrix of accuracies.

In all functions, `accuracy` [T, T] holds in row t and column k the accuracy, in [0, 1], on the test part of task k
after task t was learned. Only entries with k <= t are read; the others are usually NaN. All functions accept tensors
and nested lists, and compute in float64 on the CPU.

For example, with two tasks `[[0.9, nan], [0.6, 0.8]]`, the second task lowered the accuracy on the first from 0.9 to
0.6: the average accuracy is 0.7, the learning accuracy 0.85, the backward transfer -0.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from hat.arguments import check_type, got
from hat.text import aligned


def average_accuracy(accuracy: Any) -> float:
    """Mean accuracy of all T tasks after the last task was learned: the mean of the last row, in [0, 1].

    Raises:
        ValueError: `accuracy` is not square, or an entry on or below the diagonal is not in [0, 1].
    """
    return float(learned_part(accuracy)[-1].mean())


def learning_accuracy(accuracy: Any) -> float:
    """Mean accuracy of every task right after the task was learned: the mean of the diagonal, in [0, 1].

    Raises:
        ValueError: as `average_accuracy`.
    """
    return float(learned_part(accuracy).diagonal().mean())


def backward_transfer(accuracy: Any) -> float:
    """Mean change of the accuracy of all tasks but the last since they were learned, in [-1, 1]. Negative: forgetting.

    `1 / (T - 1) sum over k < T of R[T, k] - R[k, k]`, Lopez-Paz & Ranzato 2017. 0.0 for a single task.

    Raises:
        ValueError: as `average_accuracy`.
    """
    matrix = learned_part(accuracy)
    change = matrix[-1, :-1] - matrix.diagonal()[:-1]
    return float(change.mean()) if len(change) else 0.0


def forgetting_ratio(accuracy: Any, joint: Any, random: Any) -> Tensor:
    """How much is lost in comparison with joint training, that is learning all tasks at once.

    `rho[k, t] = (A[t, k] - A_random[k]) / (A_joint[t, k] - A_random[k]) - 1`, Serrà et al. 2018. 0 is as good as joint
    training, -1 is as bad as guessing. A task has no ratio if joint training is no better than guessing on it (it has
    one class, or was not learned). Such a task is left out of the mean.

    Args:
        accuracy: [T, T].
        joint: [T], the accuracy of joint training on each task; or [T, T], where row t is trained on the tasks up to t.
        random: [T], the accuracy of guessing.

    Returns:
        [T] float64. Entry t is the mean over tasks k <= t; NaN if no task has a ratio. The paper reports the last one.

    Raises:
        ValueError: as `average_accuracy`, for each argument.
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
    """A plain-text table of percentages: one row a task, and a last row of means.

    Args:
        names: the names of T tasks.
        learned: [T], the accuracy of each task right after it was learned, in [0, 1].
        now: [T], the present accuracy of each task, in [0, 1].
        extra: more columns [T] by heading, such as `{"alone": [...], "joint": [...]}`.

    In all columns NaN is printed as "-" and left out of the mean.

    Raises:
        TypeError: `names` is no sequence of names, or `extra` is no mapping.
        ValueError: there is no task, lengths differ, or a value is not in [0, 1].
    """
    check_type("names", names, Sequence, "a sequence of names")
    check_type("extra", extra, (Mapping, NoneType), "a mapping from headings to columns, or None")
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
    """`values` as a float64 CPU tensor.

    Args:
        values: numbers in [0, 1].
        argument: the name of `values`, for the message.
        shape: the expected shape.
        blank: whether NaN is allowed.

    Raises:
        ValueError: the shape differs, or a value is not in [0, 1].
    """
    tensor = as_tensor(values, argument)
    if tensor.shape != shape:
        raise ValueError(f"{argument}: expected shape {shape}, got {tuple(tensor.shape)}")
    valid = (tensor >= 0) & (tensor <= 1)
    if blank:
        valid |= tensor.isnan()
    if not bool(valid.all()):
        raise ValueError(f"{argument}: expected values from 0 to 1, got {float(tensor[~valid][0]):g}")
    return tensor


def learned_part(accuracy: Any, argument: str = "accuracy") -> Tensor:
    """`accuracy` [T, T] as a float64 CPU tensor with NaN above the diagonal.

    Raises:
        ValueError: the matrix is not square, or an entry on or below the diagonal is not in [0, 1].
    """
    matrix = as_tensor(accuracy, argument)
    tasks = max(1, len(matrix) if matrix.ndim else 0)
    if matrix.shape != (tasks, tasks):
        raise ValueError(f"{argument}: expected a square matrix [T, T], got {tuple(matrix.shape)}")
    past = _past(tasks)
    fractions(matrix[past], argument, (int(past.sum()),))
    return torch.where(past, matrix, math.nan)


def as_tensor(values: Any, argument: str) -> Tensor:
    """Nested lists, arrays, tensors or lists of tensors as one float64 CPU tensor.

    Raises:
        ValueError: `values` are not numbers in rows of one length.
    """
    try:
        if isinstance(values, (list, tuple)) and values and all(isinstance(row, Tensor) for row in values):
            values = torch.stack(list(values))
        tensor = torch.as_tensor(values)
        if not tensor.is_complex() and tensor.layout == torch.strided:
            return torch.as_tensor(values, dtype=torch.float64).detach().cpu()
        reason = got(tensor)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).strip().partition("\n")[0]
    raise ValueError(f"{argument}: expected numbers in rows of one length, got {reason}")


def _past(tasks: int) -> Tensor:
    return torch.ones(tasks, tasks, dtype=torch.bool).tril()


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}%"
