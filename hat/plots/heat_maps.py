"""Heat maps with one row and one column per task: accuracy, and shared units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hat.metrics import as_tensor, fractions, learned_part
from hat.plots.canvas import INK, canvas, check_names, label, listed, ticks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ANNOTATED = 12  # with more tasks, cells have no numbers: the numbers would be too small to read


def accuracy_matrix(accuracy: Any, names: Sequence[str]) -> Figure:
    """Heat map of the accuracy on task k (column) after task t was learned (row). Only cells with k <= t are drawn.

    Args:
        accuracy: [T, T], in [0, 1].
        names: the names of the T tasks.

    Raises:
        ValueError: a shape or a value is wrong.
    """
    matrix = learned_part(accuracy)
    figure, axes = _heat_map(matrix, names, "Accuracy on every task as tasks are learned", "accuracy (%)")
    axes.set(xlabel="tested on task", ylabel="after learning task")
    return figure


def overlap(masks_overlap: Any, names: Sequence[str]) -> Figure:
    """Heat map of the share of task i's units (row) that task j (column) uses too. Cells with NaN stay blank.

    Args:
        masks_overlap: [T, T], in [0, 1] or NaN.
        names: the names of the T tasks.

    Raises:
        ValueError: a shape or a value is wrong.
    """
    names = listed("names", names)
    check_names(names, len(names))
    matrix = fractions(masks_overlap, "masks_overlap", (len(names), len(names)), blank=True)
    figure, axes = _heat_map(matrix, names, "Units shared between tasks", "shared units (% of the row's task)")
    axes.set(xlabel="also used by task", ylabel="units of task")
    return figure


def overlap_matrix(masks: Sequence[Tensor]) -> Tensor:
    """Compute the share of task i's units that task j uses too, over the units of all gates together.

    Args:
        masks: one tensor [T, N] per gate, values in [0, 1]. A task uses a unit if the unit's mask exceeds 0.5.

    Returns:
        [T, T] float64. A task that uses no unit has a row and a column of zeros.

    Raises:
        ValueError: there are no masks, a shape is wrong, or a value is outside [0, 1].
    """
    tensors = [as_tensor(mask, f"masks[{i}]") for i, mask in enumerate(listed("masks", masks))]
    if not tensors or any(mask.ndim != 2 for mask in tensors):
        raise ValueError(f"masks: expected tensors [T, N], got {[tuple(mask.shape) for mask in tensors]}")
    tasks = len(tensors[0])
    units = [fractions(mask, f"masks[{i}]", (tasks, mask.shape[1])) for i, mask in enumerate(tensors)]
    used = (torch.cat(units, 1) > 0.5).double()
    return used @ used.T / used.sum(1, keepdim=True).clamp(min=1)


def _heat_map(matrix: Tensor, names: Sequence[str], title: str, unit: str) -> tuple[Figure, Axes]:
    tasks = len(matrix)
    check_names(names, tasks)
    side = min(8.0, 3.4 + 0.5 * tasks)
    figure, axes = canvas(side + 1.6, side + 0.6, title)
    image = axes.imshow(100 * matrix.numpy(), cmap="viridis", vmin=0, vmax=100)
    bar = figure.colorbar(image, ax=axes, shrink=0.85, aspect=25)
    bar.set_label(unit, color=INK)
    bar.outline.set_visible(False)
    axes.spines[:].set_visible(False)
    ticks = ticks_of(tasks)
    labels = [label(names[tick]) for tick in ticks]
    axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, labels)
    if tasks <= _ANNOTATED:
        for row, shares in enumerate(matrix.tolist()):
            for column, share in enumerate(shares):
                if not math.isnan(share):
                    axes.text(
                        column,
                        row,
                        f"{100 * share:.1f}",
                        color=_ink(share),
                        ha="center",
                        va="center",
                        fontsize=9,
                    )
    return figure, axes


def _ink(share: float) -> str:
    """The text colour with the better contrast: the colours of viridis reach a luminance of 0.18 at a share of 0.45."""
    return "white" if share < 0.45 else "black"
