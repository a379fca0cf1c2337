"""The table at the end of a run."""

from __future__ import annotations

import math
from typing import Any

from hat import metrics
from hat.arguments import got
from hat.training import REFERENCES
from hat.training.form import check_form
from hat.training.history import History
from hat.training.rundir import RunDir


def summarise(history: History, references: dict[str, list[float]], guesses: list[float]) -> dict[str, Any]:
    """The figures of a run as plain numbers.

    The figures are those of the tasks that were not forgotten on purpose. Only `references` and `random` have a number
    for every task.

    Args:
        history: of the run, with at least one task.
        references: accuracy of every task without HAT, by kind of reference.
        guesses: accuracy of guessing a class, of every task.

    Returns:
        A dict that JSON can hold. If there is a joint reference, it has an entry `forgetting_ratio`, which is None if
        no task has a ratio.
    """
    kept = history.kept
    matrix = history.matrix[kept][:, kept]
    summary: dict[str, Any] = {
        "tasks": [history.names[task] for task in kept],
        "learned": matrix.diagonal().tolist(),
        "now": matrix[-1].tolist(),
        "average_accuracy": metrics.average_accuracy(matrix),
        "backward_transfer": metrics.backward_transfer(matrix),
        "largest_drift": history.largest_drift,
        "used_capacity": history.capacity[-1],
        "kept": kept,
        "references": references,
        "random": guesses,
    }
    if "joint" in references:
        joint, random = ([column[task] for task in kept] for column in (references["joint"], guesses))
        ratio = float(metrics.forgetting_ratio(matrix, joint, random)[-1])
        summary["forgetting_ratio"] = None if math.isnan(ratio) else ratio
    return summary


def render(summary: dict[str, Any]) -> str:
    """A summary as text: the table of tasks, and the lines below it."""
    extra = {kind: [column[task] for task in summary["kept"]] for kind, column in summary["references"].items()}
    table = metrics.table(summary["tasks"], summary["learned"], summary["now"], extra=extra)
    used = summary["used_capacity"]
    lines = [
        table,
        "",
        f"average accuracy    {summary['average_accuracy']:8.2%}",
        f"backward transfer   {summary['backward_transfer']:+8.2%}",
    ]
    if "forgetting_ratio" in summary:
        lines.append(_forgetting(summary["forgetting_ratio"]))
    lines.append(
        f"largest logit drift {summary['largest_drift']:>8g}   over all earlier tasks and their whole test parts"
    )
    lines.append(f"used units          {sum(used.values()) / len(used):8.1%}   mean over {len(used)} gates")
    return "\n".join(lines)


def read_references(folder: RunDir, tasks: int) -> tuple[dict[str, list[float]], list[float]]:
    """Read the references and the guesses from the result.json of a run; empty if there is no such file.

    Raises:
        ValueError: the file is damaged, or has another number of tasks.
    """
    result, where = folder.read_result(), str(folder.result)
    if not result:
        return {}, []
    check_form(result, {"references": dict, "random": [(int, float)]}, where)
    if unknown := [kind for kind in result["references"] if kind not in REFERENCES]:
        raise ValueError(f"{where}: references: expected some of {', '.join(REFERENCES)}, got {got(unknown[0])}")
    for kind, column in {**result["references"], "random": result["random"]}.items():
        metrics.fractions(column, f"{where}: {kind}", (tasks,))
    return result["references"], result["random"]


def _forgetting(ratio: float | None) -> str:
    if ratio is None:
        return "forgetting ratio           -   (joint training is no better than guessing)"
    return f"forgetting ratio    {ratio:+8.4f}   (0: as good as joint training, -1: guessing)"
