"""Line plots over time: accuracy and used units over learned tasks, compression over epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hat.arguments import check_type
from hat.metrics import as_tensor, fractions, learned_part
from hat.plots.canvas import COLOURS, FAINT, INK, MARKERS, blank, canvas, check_names, label, listed, style, ticks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 2 * len(COLOURS)  # with more lines, a colour scale replaces the legend, which would not fit the picture
_SAME = 0.25  # two lines that are closer than this, in percentage points, hide each other
_REFERENCES = {"alone": "each\nalone", "joint": "all\njointly", "sequential": "one after\nanother"}


def accuracy_over_time(
    accuracy: Any, names: Sequence[str], *, references: Mapping[str, Sequence[float]] | None = None
) -> Figure:
    """Draw one line per task: the accuracy on the task after each later task was learned.

    Args:
        accuracy: [T, T], in [0, 1], as in `accuracy_matrix`.
        names: the names of the T tasks.
        references: the accuracies [T], in [0, 1], of the same network without HAT, by the kind of training. Each kind
            is drawn as a column of marks to the right of the last task.

    Raises:
        ValueError: a shape or a value is wrong.
    """
    matrix = learned_part(accuracy)
    tasks = len(matrix)
    if references is not None:
        check_type("references", references, Mapping, "a dict of accuracies")
    without = {kind: fractions(shares, str(kind), (tasks,)) for kind, shares in (references or {}).items()}
    figure, axes = canvas(8.5, 4.8, "Accuracy of each task over time")
    _lines(figure, axes, matrix, names, "task")
    if without:
        _columns(axes, without, tasks)
    everything = torch.cat([matrix[~matrix.isnan()], *without.values()])
    lowest = 100 * float(everything.min())
    axes.set(ylabel="accuracy (%)", ylim=(max(0, 10 * math.floor((lowest - 2) / 10)), 100))
    return figure


def capacity(used: Any, layers: Sequence[str], *, total: Any = None) -> Figure:
    """Draw the share of every layer's units that is in use after each task.

    Args:
        used: [T, L], in [0, 1]: the shares of L layers after each of T tasks.
        layers: the names of the L layers.
        total: [T], in [0, 1]: the share of the whole network. None: no line for the whole network.

    Raises:
        ValueError: a shape or a value is wrong.
    """
    layers = listed("layers", layers)
    check_names(layers, len(layers), "layers")
    shares = as_tensor(used, "used")
    shares = fractions(shares, "used", (max(1, len(shares) if shares.ndim else 0), len(layers)))
    figure, axes = canvas(8.5, 4.8, "Units in use as tasks are learned")
    whole = None if total is None else fractions(total, "total", (len(shares),))
    _lines(figure, axes, shares, layers, "layer", whole)
    axes.set(ylabel="units in use (%)", ylim=(0, 100))
    return figure


def compression(
    accuracy: Sequence[Any],
    kept: Sequence[Any],
    names: Sequence[str],
    *,
    without: Sequence[Any] | None = None,
    final: Sequence[Mapping[str, float]] | None = None,
) -> Figure:
    """Draw the validation accuracy and the share of weights kept over the epochs of runs. Each run learns one task.

    Args:
        accuracy: for each run, the validation accuracy in [0, 1] after every epoch.
        kept: for each run, the share of weights kept in [0, 1] after every epoch.
        names: the names of the runs.
        without: like `accuracy`, for the same networks without HAT; drawn dashed. The number of epochs may differ from
            that of `accuracy`. None: no dashed lines.
        final: for each run, its final numbers in [0, 1]: `kept`, the share of weights kept, and `accuracy` and
            `without`, the test accuracy with HAT and without. The legends show these numbers. None: the legends show
            the share kept after the last epoch.

    Raises:
        ValueError: a length or a value is wrong.
    """
    names = listed("names", names)
    accuracy, kept = listed("accuracy", accuracy), listed("kept", kept)
    without = None if without is None else listed("without", without)
    final = None if final is None else listed("final", final)
    columns = {"accuracy": accuracy, "kept": kept, "without": [()] * len(names) if without is None else without}
    check_names(names, len(accuracy))
    for argument, column in {**columns, "final": names if final is None else final}.items():
        if len(column) != len(names):
            raise ValueError(f"{argument}: expected {len(names)} runs, got {len(column)}")
    runs = {key: [_run(key, run) for run in column] for key, column in columns.items()}
    for index, numbers in enumerate(final or ()):
        check_type(f"final[{index}]", numbers, Mapping, "a dict")
        if missing := {"kept", "accuracy", "without"} - set(numbers):
            raise ValueError(f"final[{index}]: expected kept, accuracy and without, got no {min(missing)}")
        fractions([numbers["kept"], numbers["accuracy"], numbers["without"]], f"final[{index}]", (3,))
    if final is None and not all(map(len, runs["kept"])):
        raise ValueError("kept: expected at least one epoch for every run, got none")
    figure = blank(10.5, 4.4)
    left, right = figure.subplots(1, 2)
    _epochs(left, "Accuracy", "validation accuracy (%)")
    _epochs(right, "Compression", "weights kept (%)")
    for index, name in enumerate(names):
        colour, run_label = COLOURS[index % len(COLOURS)], label(name, 26)
        shares = {key: 100 * column[index].numpy() for key, column in runs.items()}
        end = {"kept": shares["kept"][-1] / 100} if final is None else final[index]
        left.plot(_steps(shares["without"]), shares["without"], color=colour, linestyle="--", linewidth=1.2)
        (line,) = left.plot(_steps(shares["accuracy"]), shares["accuracy"], color=colour, linewidth=1.8)
        if final is not None:
            line.set_label(f"{run_label}: {100 * end['accuracy']:.2f} % ({100 * end['without']:.2f} %)")
        kept_label = f"{run_label}: {100 * end['kept']:.1f} %"
        right.plot(_steps(shares["kept"]), shares["kept"], color=colour, linewidth=1.8, label=kept_label)
    left.set_ylim(top=100)
    right.set_ylim(0, 100)
    if without is not None:
        left.plot([], [], color=INK, linestyle="--", linewidth=1.2, label="without HAT")
    _legend_below(left, "" if final is None else "test accuracy (without HAT)")
    _legend_below(right, "kept after the last epoch" if final is None else "kept in the end")
    return figure


def _run(argument: str, shares: Any) -> Tensor:
    """One number in [0, 1] for every epoch of a run."""
    tensor = as_tensor(shares, argument)
    return fractions(tensor, argument, (tensor.numel(),))


def _epochs(axes: Axes, title: str, unit: str) -> None:
    style(axes)
    axes.set_title(title, fontsize=13, color=INK, pad=10)
    _over_time(axes, "epoch")
    axes.set_ylabel(unit, color=INK)


def _legend_below(axes: Axes, title: str) -> None:
    """Put a legend below `axes`, where it hides no line. If no line has a label, there is no legend."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15)}
        axes.legend(handles, labels, title=title, frameon=False, fontsize=9, title_fontsize=9, **place)


def _steps(shares: Any) -> list[int]:
    """The numbers 1, 2, ... of the tasks or epochs, for the horizontal axis."""
    return list(range(1, len(shares) + 1))


def _over_time(axes: Axes, unit: str) -> None:
    """Number the horizontal axis with whole numbers, and draw horizontal grid lines."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(unit, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def _lines(
    figure: Figure, axes: Axes, shares: Tensor, names: Sequence[str], kind: str, whole: Tensor | None = None
) -> None:
    """Draw the columns of `shares` [T, L] as lines over tasks 1 to T.

    A legend names the lines; if there are many lines, a colour scale does. A line that later lines would cover is drawn
    wider than the later lines.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm

    steps, count = shares.shape
    check_names(names, count)
    named = count <= _NAMED
    palette = colormaps["viridis"].resampled(count)
    tasks = _steps(shares)
    # The last step always has a marker, because the line of the newest task is a single point.
    markers = list(range(steps - 1, -1, -max(1, steps // 12))) if named else [steps - 1]
    lines_above = _lines_above(shares) if named else [0] * count
    margin = min(2.0, 10 / max(1, *lines_above))  # in points
    for index, name in enumerate(names):
        axes.plot(
            tasks,
            100 * shares[:, index].numpy(),
            color=COLOURS[index % len(COLOURS)] if named else palette(index),
            label=label(name),
            linestyle="-" if not named or index < len(COLOURS) else "--",
            linewidth=(1.6 if named else 1.0) + margin * lines_above[index],
            marker=MARKERS[index % len(MARKERS)] if named else "o",
            markersize=(5 if named else 3) + margin * lines_above[index],
            markevery=markers,
            clip_on=False,
        )
    if whole is not None:
        whole_line: dict[str, Any] = {"color": "black", "linewidth": 2.8, "linestyle": ":", "marker": "o"}
        axes.plot(tasks, 100 * whole.numpy(), label="whole network", markevery=[steps - 1], clip_on=False, **whole_line)
    _over_time(axes, "tasks learned")
    axes.set_xlim(0.5, steps + 0.5)
    if named:
        axes.legend(title=kind, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
        return
    scale = ScalarMappable(BoundaryNorm([i - 0.5 for i in range(count + 1)], count), palette)
    ticks = ticks_of(count)
    bar = figure.colorbar(scale, ax=axes, ticks=ticks, aspect=30)
    bar.set_ticklabels([label(names[tick]) for tick in ticks], fontsize=8)
    bar.ax.set_title(kind, fontsize=9, color=INK)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    if whole is not None:
        axes.legend(handles=axes.lines[-1:], loc="upper left", frameon=False, fontsize=9)


def _lines_above(shares: Tensor) -> list[int]:
    """For every column of `shares` [T, L], count the later columns that cover its line.

    A later line covers a line if the two lines are close at two neighbouring steps. If the two lines have only one step
    in common, being close at this step is enough. Two lines that only cross do not cover each other.
    """
    counts = []
    for index in range(shares.shape[1]):
        distance = (shares[:, index + 1 :] - shares[:, index, None]).abs()
        close = distance < _SAME / 100
        point = close.any(0) & ((~distance.isnan()).sum(0) == 1)
        counts.append(int((point | (close[1:] & close[:-1]).any(0)).sum()))
    return counts


def _columns(axes: Axes, without: Mapping[str, Tensor], tasks: int) -> None:
    """Draw the accuracies [T] of every kind of reference as a column of marks to the right of task T.

    A mark has the colour and the shape of its task's line.
    """
    width = max(1.0, tasks / 8)
    centres = [tasks + 0.5 + width * (place + 0.6) for place in range(len(without))]
    for centre, shares in zip(centres, without.values(), strict=True):
        for task, share in enumerate(shares.tolist()):
            line = axes.lines[task]
            axes.plot(
                centre + width * 0.6 * ((task + 0.5) / tasks - 0.5),
                100 * share,
                color=line.get_color(),
                marker=line.get_marker(),
                markerfacecolor="white",
                markersize=5,
                linestyle="none",
                clip_on=False,
            )
    task_ticks = [tick + 1 for tick in ticks_of(tasks, 12)]
    kinds = [_REFERENCES.get(kind, label(kind)) for kind in without]
    axes.set_xticks([*task_ticks, *centres], [*map(str, task_ticks), *kinds])
    axes.set_xlim(0.5, centres[-1] + 0.6 * width)
    axes.axvline(tasks + 0.5 + 0.1 * width, color=FAINT, linewidth=0.8)
    top = axes.get_xaxis_transform()
    axes.text(sum(centres) / len(centres), 1.01, "without HAT", transform=top, ha="center", fontsize=9, color=INK)
