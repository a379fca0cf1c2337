"""Parts that the pictures of the benchmark share: panels, lines of the variants, axes and a legend."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.variants import COMPILED, FLUSHED, IN_MATMUL, OURS, PLAIN, TEXTBOOK, UNFLUSHED

# Colour, marker and line style of every variant. The colours are Paul Tol's "muted" scheme, as in hat.plots.
STYLES = {
    PLAIN: ("#999999", "o", "-"),
    TEXTBOOK: ("#cc6677", "s", "--"),
    FLUSHED: ("#cc6677", "s", "-"),
    OURS: ("#332288", "D", "-"),
    IN_MATMUL: ("#117733", "^", "-"),
    COMPILED: ("#88ccee", "v", "-"),
    UNFLUSHED: ("#332288", "D", "--"),
}
FLOOR = "floor"
NOTES = {
    "flush mode": "flush mode: the CPU takes subnormal numbers (below 1e-38) as 0; annealed gates make many of them",
    FLOOR: "floor: the least time that the matmuls or the memory traffic of a HAT step take on this machine",
}
"""Explanations of words in a legend."""
TIMES = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5)]
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.5, 2, 3, 4, 6, 8)


def panels(count: int, title: str, *, columns: int = 0) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels in rows of `columns` panels, by default in one row."""
    columns = min(columns or count, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(1.2 + 4.2 * columns, 0.8 + 3.8 * lines), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    made = [figure.add_subplot(lines, columns, index + 1) for index in range(count)]
    for axes in made:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.title.set_fontsize(10)
    return figure, made


def line(axes: Axes, name: str, points: list[tuple[float, dict[str, float]]]) -> None:
    """Draw medians as a line, and the 20th to 80th percentile as a band."""
    colour, marker, style = STYLES[name]
    x = [place for place, _ in points]
    axes.plot(x, [q["p50"] for _, q in points], color=colour, marker=marker, markersize=4, linestyle=style, label=name)
    axes.fill_between(x, [q["p20"] for _, q in points], [q["p80"] for _, q in points], color=colour, alpha=0.12)


def floor(axes: Axes, points: list[tuple[float, float]]) -> None:
    """Draw the floor: the least time that the arithmetic or the memory traffic of a HAT step takes."""
    axes.plot(*zip(*points, strict=True), color="black", linestyle=":", linewidth=1.2, label=FLOOR)


def log_axis(axes: Axes, values: Sequence[float], ladder: Sequence[float]) -> None:
    """Make the vertical axis logarithmic. The axis covers `values`, and its labels are numbers of `ladder`."""
    low, high = min(values) / 1.3, 1.3 * max(values)
    ticks = [tick for tick in ladder if low < tick < high]
    axes.set(yscale="log")
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(low, high)
    axes.minorticks_off()


def legend(figure: Figure, axes: Axes) -> None:
    """Put one legend for all panels below them. Its title explains the words in `NOTES` that the legend uses."""
    handles, labels = axes.get_legend_handles_labels()
    notes = [note for word, note in NOTES.items() if any(word in label for label in labels)]
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 4),
        frameon=False,
        fontsize=9,
        title="\n".join(notes) or None,
        title_fontsize=9,
    )
