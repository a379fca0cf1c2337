"""Step time against scale, and step time relative to plain against locked share, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.tables import label
from hat import plots

Row = dict[str, Any]

# Colour, marker and line of every variant; Paul Tol's "muted" scheme, as in hat.plots.
STYLES = {
    "plain": ("#999999", "o", "-"),
    "textbook": ("#cc6677", "s", "--"),
    "textbook, flush mode": ("#cc6677", "s", "-"),
    "ours": ("#332288", "D", "-"),
    "ours, no flush mode": ("#332288", "D", "--"),
}


CROWDED = (30.0, 200.0)  # scales whose labels would touch their neighbours


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write `cpu-scale.png` and `cpu-locked.png` to `folder`, each if there are rows for it."""
    written = []
    for name, part, make in (("cpu-scale.png", "scale", over_scale), ("cpu-locked.png", "epoch", over_locked)):
        rows = [row for row in results["rows"] if row["part"] == part]
        if rows:
            plots.save(make(rows), folder / name)
            written.append(folder / name)
    return written


def over_scale(rows: list[Row]) -> Figure:
    """One panel a state of the network: median step over scale, with the 20th to 80th percentile."""
    states = list(dict.fromkeys(row["state"] for row in rows))
    figure, panels = _panels(len(states), "CPU step time over the annealed scale s: MLP, batch 64")
    top = 1.12 * max(row["ms"]["p80"] for row in rows)
    for axes, state in zip(panels, states, strict=True):
        here = [row for row in rows if row["state"] == state]
        for name in _variants(here):
            _line(axes, name, [(row["scale"], row["ms"]) for row in here if row["variant"] == name])
        scales = [scale for scale in dict.fromkeys(row["scale"] for row in here) if scale not in CROWDED]
        axes.set(xscale="log", xlabel="scale s", title=f"embeddings {state}", ylim=(0, top))
        axes.set_xticks(scales, [label(scale) for scale in scales])
        axes.minorticks_off()
    panels[0].set_ylabel("step (ms)")
    _legend(figure, panels[0])
    return figure


def over_locked(rows: list[Row]) -> Figure:
    """One panel a network and batch: mean step over an annealed epoch by locked share, as a multiple of plain's."""
    cases = list(dict.fromkeys((row["network"], row["batch"]) for row in rows))
    figure, panels = _panels(len(cases), "CPU step as the network fills up: mean over an annealed epoch / plain")
    rows = [row for row in rows if row["variant"] != "plain"]
    top = 1.12 * max(row["ratio_to"]["plain"]["p80"] for row in rows)
    for axes, (network, batch) in zip(panels, cases, strict=True):
        here = [row for row in rows if (row["network"], row["batch"]) == (network, batch)]
        axes.axhline(1, color=STYLES["plain"][0], label="plain")
        for name in _variants(here):
            points = [(100 * row["locked"], row["ratio_to"]["plain"]) for row in here if row["variant"] == name]
            _line(axes, name, points)
        shares = sorted({100 * row["locked"] for row in here})
        axes.set(xlabel="locked share of every axis (%)", title=f"{network}, batch {batch}", xticks=shares)
        axes.set_ylim(0, top)
    panels[0].set_ylabel("step / plain step")
    _legend(figure, panels[0])
    return figure


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(1.2 + 4.2 * count, 4.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    panels = [figure.add_subplot(1, count, index + 1) for index in range(count)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.title.set_fontsize(10)
    return figure, panels


def _line(axes: Axes, name: str, points: list[tuple[float, dict[str, float]]]) -> None:
    """Medians as a line, the 20th to 80th percentile as a band."""
    colour, marker, line = STYLES[name]
    x = [place for place, _ in points]
    axes.plot(x, [q["p50"] for _, q in points], color=colour, marker=marker, markersize=4, linestyle=line, label=name)
    axes.fill_between(x, [q["p20"] for _, q in points], [q["p80"] for _, q in points], color=colour, alpha=0.12)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)


def _variants(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["variant"] for row in rows))
