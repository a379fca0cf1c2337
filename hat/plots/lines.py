"""What changes with time: accuracy and capacity as tasks are learned, compression as epochs pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hat.metrics import as_tensor, fractions, learned_part
from hat.plots.canvas import COLOURS, FAINT, INK, MARKERS, blank, canvas, check_names, label, style, ticks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 10  # beyond this many lines a legend is longer than the picture, and a colour scale takes its place


def accuracy_over_time(accuracy: Any, names: Sequence[str]) -> Figure:
    """One line per task of `accuracy` [T, T] as in `accuracy_matrix`, from the day it was learned on.

    names: T task names. Raises ValueError for other shapes or values.
    """
    matrix = learned_part(accuracy)
    figure, axes = canvas(8.5, 4.8, "Accuracy of each task over time")
    _lines(figure, axes, matrix, names, "task")
    lowest = 100 * float(matrix[~matrix.isnan()].min())
    axes.set(ylabel="accuracy (%)", ylim=(max(-2.0, 10 * math.floor((lowest - 2) / 10)), 102))
    return figure


def capacity(used: Any, layers: Sequence[str], *, total: Any = None) -> Figure:
    """Share of each layer's units in use, `used` [T, L] in [0, 1], after each of T tasks.

    layers: L layer names. total: [T] in [0, 1], the same for the whole network, drawn if given.
    Raises ValueError for other shapes or values.
    """
    check_names(layers, len(layers), "layers")
    shares = as_tensor(used, "used")
    shares = fractions(shares, "used", (max(1, len(shares) if shares.ndim else 0), len(layers)))
    figure, axes = canvas(8.5, 4.8, "Units in use as tasks are learned")
    whole = None if total is None else fractions(total, "total", (len(shares),))
    _lines(figure, axes, shares, layers, "layer", whole)
    axes.set(ylabel="units in use (%)", ylim=(-2, 102))
    return figure


def compression(
    accuracy: Sequence[Any], kept: Sequence[Any], names: Sequence[str], *, without: Sequence[Any] | None = None
) -> Figure:
    """Validation accuracy, and share of weights kept, over the epochs of runs that each learn one task alone.

    accuracy, kept: of each run a list of shares in [0, 1], one an epoch. names: of the runs.
    without: accuracy as above of the same networks without attention, drawn dashed if given; lengths may differ.
    Raises ValueError for other lengths or values.
    """
    columns = {"accuracy": accuracy, "kept": kept, "without": [()] * len(names) if without is None else without}
    check_names(names, len(accuracy))
    for argument, column in columns.items():
        if len(column) != len(names):
            raise ValueError(f"{argument}: expected {len(names)} runs, got {len(column)}")
    figure = blank(10.5, 4.4)
    left, right = figure.subplots(1, 2)
    for axes, title, unit in (
        (left, "Accuracy", "validation accuracy (%)"),
        (right, "Compression", "weights kept (%)"),
    ):
        style(axes)
        axes.set_title(title, fontsize=13, color=INK, pad=10)
        _over_time(axes, "epoch")
        axes.set_ylabel(unit, color=INK)
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        shares = {key: 100 * fractions(runs[index], key, (len(runs[index]),)).numpy() for key, runs in columns.items()}
        left.plot(_days(shares["without"]), shares["without"], color=colour, linestyle="--", linewidth=1.2)
        left.plot(_days(shares["accuracy"]), shares["accuracy"], color=colour, linewidth=1.8)
        end = f"{label(name)}: {shares['kept'][-1]:.1f} %"
        right.plot(_days(shares["kept"]), shares["kept"], color=colour, linewidth=1.8, label=end)
    right.set_ylim(0, 102)
    right.legend(title="kept after the last epoch", loc="upper right", frameon=False, fontsize=9)
    if without is not None:
        left.plot([], [], color=INK, linestyle="--", linewidth=1.2, label="without HAT")
        left.legend(loc="lower right", frameon=False, fontsize=9)
    return figure


def _days(shares: Any) -> list[int]:
    return list(range(1, len(shares) + 1))


def _over_time(axes: Axes, unit: str) -> None:
    """Whole numbers along, and lines across."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(unit, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def _lines(
    figure: Figure, axes: Axes, shares: Tensor, names: Sequence[str], what: str, whole: Tensor | None = None
) -> None:
    """Draw columns of `shares` [T, L] over tasks 1 to T, told apart by a legend or, if many, a colour scale."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm

    steps, count = shares.shape
    check_names(names, count)
    few = count <= _NAMED
    palette = colormaps["viridis"].resampled(count)
    days = _days(shares)
    marked = list(range(steps - 1, -1, -max(1, steps // 12))) if few else [steps - 1]  # always a newest task's dot
    for index, name in enumerate(names):
        colour = COLOURS[index] if few else palette(index)
        axes.plot(
            days,
            100 * shares[:, index].numpy(),
            color=colour,
            label=label(name),
            linewidth=1.6 if few else 1.0,
            marker=MARKERS[index] if few else "o",
            markersize=5 if few else 3,
            markevery=marked,
        )
    if whole is not None:
        black: dict[str, Any] = {"color": "black", "linewidth": 2.8, "linestyle": "--", "marker": "o"}
        axes.plot(days, 100 * whole.numpy(), label="whole network", markevery=[steps - 1], **black)
    _over_time(axes, "tasks learned")
    axes.set_xlim(0.5, steps + 0.5)
    if few:
        axes.legend(title=what, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
        return
    scale = ScalarMappable(BoundaryNorm([i - 0.5 for i in range(count + 1)], count), palette)
    ticks = ticks_of(count)
    bar = figure.colorbar(scale, ax=axes, ticks=ticks, aspect=30)
    bar.set_ticklabels([label(names[tick]) for tick in ticks], fontsize=8)
    bar.ax.set_title(what, fontsize=9, color=INK)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    if whole is not None:
        axes.legend(handles=axes.lines[-1:], loc="upper left", frameon=False, fontsize=9)
