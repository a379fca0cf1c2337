"""Pictures of a run: what was learned, what was kept, how full the network is and how much tasks share.

Every function takes plain numbers and returns a matplotlib Figure with a canvas of its own: no global state,
so it draws without a display and in any thread. matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hat.checkpoint import replacing
from hat.metrics import as_tensor, fractions, learned_part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ANNOTATED = 12  # beyond this many tasks the numbers in the cells are too small to read
_NAMED = 10  # beyond this many lines a legend is longer than the picture, and a colour scale takes its place
_TICKS = 25
# Paul Tol's "muted" scheme: ten colours that stay apart in every common form of colour blindness.
_COLOURS = ["#332288", "#88ccee", "#117733", "#ddcc77", "#cc6677"]
_COLOURS += ["#aa4499", "#44aa99", "#999933", "#882255", "#aaaaaa"]
_MARKERS = "osD^v<>pPX"
_INK, _FAINT = "#333333", "#dddddd"


def accuracy_matrix(accuracy: Any, names: Sequence[str]) -> Figure:
    """Heat map of `accuracy` [T, T], shares in [0, 1] of task k (column) after learning task t (row).

    names: T task names. Only k <= t is drawn. Raises ValueError for other shapes or values.
    """
    matrix = learned_part(accuracy)
    figure, axes = _heat_map(matrix, names, "Accuracy on every task as tasks are learned", "accuracy (%)")
    axes.set(xlabel="tested on task", ylabel="after learning task")
    return figure


def accuracy_over_time(accuracy: Any, names: Sequence[str]) -> Figure:
    """One line per task of `accuracy` [T, T] as in `accuracy_matrix`, from the day it was learned on.

    names: T task names. Raises ValueError for other shapes or values.
    """
    matrix = learned_part(accuracy)
    figure, axes = _canvas(8.5, 4.8, "Accuracy of each task over time")
    _lines(figure, axes, matrix, names, "task")
    lowest = 100 * float(matrix[~matrix.isnan()].min())
    axes.set(ylabel="accuracy (%)", ylim=(max(-2.0, 10 * math.floor((lowest - 2) / 10)), 102))
    return figure


def capacity(used: Any, layers: Sequence[str], *, total: Any = None) -> Figure:
    """Share of each layer's units in use, `used` [T, L] in [0, 1], after each of T tasks.

    layers: L layer names. total: [T] in [0, 1], the same for the whole network, drawn if given.
    Raises ValueError for other shapes or values.
    """
    _check_names(layers, len(layers), "layers")
    shares = as_tensor(used, "used")
    shares = fractions(shares, "used", (max(1, len(shares) if shares.ndim else 0), len(layers)))
    figure, axes = _canvas(8.5, 4.8, "Units in use as tasks are learned")
    whole = None if total is None else fractions(total, "total", (len(shares),))
    _lines(figure, axes, shares, layers, "layer", whole)
    axes.set(ylabel="units in use (%)", ylim=(-2, 102))
    return figure


def overlap(masks_overlap: Any, names: Sequence[str]) -> Figure:
    """Heat map of `masks_overlap` [T, T]: share in [0, 1] of task i's units (row) that task j (column) uses.

    names: T task names. NaN cells stay blank. Raises ValueError for other shapes or values.
    """
    _check_names(names, len(names))
    matrix = fractions(masks_overlap, "masks_overlap", (len(names), len(names)), blank=True)
    figure, axes = _heat_map(matrix, names, "Units shared between tasks", "shared units (% of the row's task)")
    axes.set(xlabel="also used by task", ylabel="units of task")
    return figure


def overlap_matrix(masks: Sequence[Tensor]) -> Tensor:
    """Share of task i's units that task j uses too, [T, T] float64, over the units of all gates together.

    masks: one [T, N] for each gate; a unit is used where its mask exceeds 0.5. A task that uses nothing gives
    a row and a column of zeros. Raises ValueError for no masks, other shapes, or values outside [0, 1].
    """
    if not len(masks) or any(mask.ndim != 2 for mask in masks):
        raise ValueError(f"masks: expected tensors [T, N], got {[tuple(mask.shape) for mask in masks]}")
    tasks = len(masks[0])
    units = [fractions(mask, f"masks[{i}]", (tasks, mask.shape[1])) for i, mask in enumerate(masks)]
    used = (torch.cat(units, 1) > 0.5).double()
    return used @ used.T / used.sum(1, keepdim=True).clamp(min=1)


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write `figure` to `path` as PNG at 150 dots an inch; `path` holds the old picture or the whole new one.

    Raises ValueError for a name that does not end in .png, OSError when it cannot be written.
    """
    if not os.fspath(path).lower().endswith(".png"):
        raise ValueError(f"path: expected a name ending in .png, got {os.fspath(path)!r}")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150, facecolor="white")


def _canvas(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("hat.plots needs matplotlib: pip install 'hat-kernels[plot]'") from error
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    room = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width, height), layout=room, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor="white")
    axes.set_title(title, fontsize=13, color=_INK, pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(labelsize=9, color="#999999", labelcolor=_INK)
    return figure, axes


def _heat_map(matrix: Tensor, names: Sequence[str], title: str, unit: str) -> tuple[Figure, Axes]:
    tasks = len(matrix)
    _check_names(names, tasks)
    side = min(8.0, 3.4 + 0.5 * tasks)
    figure, axes = _canvas(side + 1.6, side + 0.6, title)
    image = axes.imshow(100 * matrix.numpy(), cmap="viridis", vmin=0, vmax=100)
    bar = figure.colorbar(image, ax=axes, shrink=0.85, aspect=25)
    bar.set_label(unit, color=_INK)
    bar.outline.set_visible(False)
    axes.spines[:].set_visible(False)
    ticks = _ticks(tasks)
    labels = [_label(names[tick]) for tick in ticks]
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
    """The text colour that reads better on viridis, which passes a luminance of 0.18 at 0.45."""
    return "white" if share < 0.45 else "black"


def _lines(
    figure: Figure, axes: Axes, shares: Tensor, names: Sequence[str], what: str, whole: Tensor | None = None
) -> None:
    """Draw columns of `shares` [T, L] over tasks 1 to T, told apart by a legend or, if many, a colour scale."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm
    from matplotlib.ticker import MaxNLocator

    steps, count = shares.shape
    _check_names(names, count)
    few = count <= _NAMED
    palette = colormaps["viridis"].resampled(count)
    days = list(range(1, steps + 1))
    marked = list(range(steps - 1, -1, -max(1, steps // 12))) if few else [steps - 1]  # always a newest task's dot
    for index, name in enumerate(names):
        colour = _COLOURS[index] if few else palette(index)
        axes.plot(
            days,
            100 * shares[:, index].numpy(),
            color=colour,
            label=_label(name),
            linewidth=1.6 if few else 1.0,
            marker=_MARKERS[index] if few else "o",
            markersize=5 if few else 3,
            markevery=marked,
        )
    if whole is not None:
        black: dict[str, Any] = {"color": "black", "linewidth": 2.8, "linestyle": "--", "marker": "o"}
        axes.plot(days, 100 * whole.numpy(), label="whole network", markevery=[steps - 1], **black)
    axes.set_xlabel("tasks learned", color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, steps + 0.5)
    axes.grid(axis="y", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    if few:
        axes.legend(title=what, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
        return
    scale = ScalarMappable(BoundaryNorm([i - 0.5 for i in range(count + 1)], count), palette)
    ticks = _ticks(count)
    bar = figure.colorbar(scale, ax=axes, ticks=ticks, aspect=30)
    bar.set_ticklabels([_label(names[tick]) for tick in ticks], fontsize=8)
    bar.ax.set_title(what, fontsize=9, color=_INK)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    if whole is not None:
        axes.legend(handles=axes.lines[-1:], loc="upper left", frameon=False, fontsize=9)


def _check_names(names: Sequence[str], count: int, argument: str = "names") -> None:
    if not count:
        raise ValueError(f"{argument}: expected at least one, got none")
    if len(names) != count:
        raise ValueError(f"names: expected {count}, got {len(names)}")


def _ticks(count: int) -> list[int]:
    """At most `_TICKS` evenly spaced indices below `count`, starting with 0."""
    return list(range(0, count, math.ceil(count / _TICKS)))


def _label(name: str) -> str:
    """`name` on one line, cut in the middle as numbers come last, and safe: `$` starts a formula, `_` hides."""
    text = " ".join(str(name).split())
    text = text if len(text) <= 20 else f"{text[:10]}…{text[-9:]}"
    text = text.replace("$", r"\$")
    return text if text and text[0] != "_" else f" {text}"
