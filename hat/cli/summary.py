"""The table at the end of a run."""

from __future__ import annotations

from typing import Any

from hat import metrics
from hat.training.history import History


def summarise(history: History, references: dict[str, list[float]], guesses: list[float]) -> dict[str, Any]:
    """The figures of a run as plain numbers.

    Args:
        history: of the run, at least one task.
        references: accuracy of every task without HAT, by kind.
        guesses: accuracy of guessing a class of every task.
    """
    matrix = history.matrix
    summary: dict[str, Any] = {
        "tasks": history.names,
        "learned": matrix.diagonal().tolist(),
        "now": matrix[-1].tolist(),
        "average_accuracy": metrics.average_accuracy(matrix),
        "backward_transfer": metrics.backward_transfer(matrix),
        "largest_drift": history.largest_drift,
        "used_capacity": history.capacity[-1],
        "references": references,
        "random": guesses,
    }
    if "joint" in references:
        summary["forgetting_ratio"] = float(metrics.forgetting_ratio(matrix, references["joint"], guesses)[-1])
    return summary


def render(summary: dict[str, Any]) -> str:
    """The table and the lines below it."""
    table = metrics.table(summary["tasks"], summary["learned"], summary["now"], extra=summary["references"])
    used = summary["used_capacity"]
    lines = [
        table,
        "",
        f"average accuracy    {summary['average_accuracy']:8.2%}",
        f"backward transfer   {summary['backward_transfer']:+8.2%}",
    ]
    if "forgetting_ratio" in summary:
        lines.append(
            f"forgetting ratio    {summary['forgetting_ratio']:+8.4f}   (0: as good as joint training, -1: guessing)"
        )
    lines.append(
        f"largest logit drift {summary['largest_drift']:>8g}   over all earlier tasks and their whole test parts"
    )
    lines.append(f"used units          {sum(used.values()) / len(used):8.1%}   mean over {len(used)} gates")
    return "\n".join(lines)
