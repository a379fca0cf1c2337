"""Pictures of step time over scale, locked share, number of tasks and width, as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import panels
from benchmarks.markdown import label
from benchmarks.variants import OURS, PLAIN
from hat import plots

Row = dict[str, Any]

CROWDED = (30.0, 200.0)  # scales without a label, because the label would touch its neighbours


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write `cpu-scale.png`, `cpu-locked.png` and so on to `folder`. A picture without rows is not drawn."""
    written = []
    for part, (name, make) in PICTURES.items():
        rows = [row for row in results["rows"] if row["part"] == part]
        if rows:
            plots.save(make(rows), folder / name)
            written.append(folder / name)
    return written


def over_scale(rows: list[Row]) -> Figure:
    """The median step over the scale, with the 20th to 80th percentile; one panel per state of the network."""
    states = list(dict.fromkeys(row["state"] for row in rows))
    figure, axes_list = panels.panels(len(states), "CPU step time over the annealed scale s: MLP, batch 64")
    top = 1.12 * max(row["ms"]["p80"] for row in rows)
    for axes, state in zip(axes_list, states, strict=True):
        state_rows = [row for row in rows if row["state"] == state]
        for name in _variants(state_rows):
            panels.line(axes, name, [(row["scale"], row["ms"]) for row in _of(state_rows, name)])
        scales = [scale for scale in dict.fromkeys(row["scale"] for row in state_rows) if scale not in CROWDED]
        axes.set(xscale="log", xlabel="scale s", title=f"embeddings {state}", ylim=(0, top))
        axes.set_xticks(scales, [label(scale) for scale in scales])
        axes.minorticks_off()
    axes_list[0].set_ylabel("step (ms)")
    panels.legend(figure, axes_list[0])
    return figure


def over_locked(rows: list[Row]) -> Figure:
    """The mean step over an annealed epoch, divided by that of plain, over the locked share; one panel per case."""
    cases = list(dict.fromkeys((row["network"], row["batch"]) for row in rows))
    title = "CPU step as the network fills up: mean over an annealed epoch / plain"
    figure, axes_list = panels.panels(len(cases), title, columns=2)
    top = 1.12 * max(row["ratio_to"][PLAIN]["p80"] for row in rows if row["variant"] != PLAIN)
    for axes, (network, batch) in zip(axes_list, cases, strict=True):
        case_rows = [row for row in rows if (row["network"], row["batch"]) == (network, batch)]
        _ratios(axes, case_rows, "locked", factor=100)
        plain = {row["locked"]: row["epoch_ms"] for row in _of(case_rows, PLAIN)}
        ours = _of(case_rows, OURS)
        panels.floor(axes, [(100 * row["locked"], row["floor_ms"] / plain[row["locked"]]) for row in ours])
        shares = sorted({100 * row["locked"] for row in case_rows})
        axes.set(xlabel="locked share of every axis (%)", title=f"{network}, batch {batch}", xticks=shares)
        axes.set(ylabel="step / plain step", ylim=(0, top))
    panels.legend(figure, axes_list[0])
    return figure


def over_tasks(rows: list[Row]) -> Figure:
    """Step time and memory over the number of finished tasks."""
    title = f"CPU step behind many tasks: {rows[0]['network']}, batch {rows[0]['batch']}"
    figure, (time, memory) = panels.panels(2, title)
    panels.line(time, PLAIN, [(row["tasks"], row["plain_ms"]) for row in rows])
    panels.line(time, OURS, [(row["tasks"], row["ms"]) for row in rows])
    top = 1.3 * max(row[key]["p80"] for row in rows for key in ("ms", "plain_ms"))
    time.set(ylabel="step (ms)", title="step time", ylim=(0, top))
    tasks = [row["tasks"] for row in rows]
    for key, line, name in (("step_bytes", "-", "of a step"), ("state_bytes", ":", "kept between steps")):
        sizes = [row[key] / 2**20 for row in rows]
        memory.plot(tasks, sizes, color=panels.STYLES[OURS][0], marker="D", markersize=4, linestyle=line, label=name)
    memory.set(ylabel="memory of ours (MiB)", title="memory", ylim=(0, None))
    memory.legend(frameon=False, fontsize=9)
    for axes in (time, memory):
        axes.set(xscale="log", xlabel="finished tasks")
        axes.set_xticks(tasks, [f"{count:g}" for count in tasks])
    panels.legend(figure, time)
    return figure


def over_width(rows: list[Row]) -> Figure:
    """Step time over the width, and below it step time / step time of plain; one column per locked share."""
    shares = sorted({row["locked"] for row in rows})
    title = "CPU step over the width of both hidden layers: MLP, batch 64"
    figure, axes_list = panels.panels(2 * len(shares), title, columns=len(shares))
    widths = sorted({row["width"] for row in rows})
    for locked, times, ratios in zip(shares, axes_list, axes_list[len(shares) :], strict=False):
        share_rows = [row for row in rows if row["locked"] == locked]
        for name in _variants(share_rows):
            panels.line(times, name, [(row["width"], row["ms"]) for row in _of(share_rows, name)])
        panels.floor(times, [(row["width"], row["floor_ms"]) for row in _of(share_rows, OURS)])
        _ratios(ratios, share_rows, "width")
        for axes, unit in ((times, "step (ms)"), (ratios, "step / plain step")):
            axes.set(xscale="log", xlabel="width", ylabel=unit, title=f"{100 * locked:.0f} % locked")
            axes.set_xticks(widths, [f"{width:g}" for width in widths])
        both = [row["floor_ms"] for row in _of(rows, OURS)] + [row["ms"]["p80"] for row in rows]
        panels.log_axis(times, both, panels.TIMES)
        spreads = [row["ratio_to"][PLAIN] for row in rows if row["variant"] != PLAIN]
        panels.log_axis(ratios, [1.0, *(q[p] for q in spreads for p in ("p20", "p80"))], panels.RATIOS)
    panels.legend(figure, axes_list[0])
    return figure


PICTURES = {
    "scale": ("cpu-scale.png", over_scale),
    "epoch": ("cpu-locked.png", over_locked),
    "tasks": ("cpu-tasks.png", over_tasks),
    "width": ("cpu-width.png", over_width),
}


def _ratios(axes: Axes, rows: list[Row], key: str, *, factor: float = 1) -> None:
    """Draw step time / step time of plain over `row[key]`, for every variant except plain."""
    axes.axhline(1, color=panels.STYLES[PLAIN][0], label=PLAIN)
    for name in _variants(rows):
        if name != PLAIN:
            panels.line(axes, name, [(factor * row[key], row["ratio_to"][PLAIN]) for row in _of(rows, name)])


def _of(rows: list[Row], variant: str) -> list[Row]:
    return [row for row in rows if row["variant"] == variant]


def _variants(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["variant"] for row in rows))
