"""What all pictures have in common: a canvas, colours, labels that fit, and how they are saved."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hat.checkpoint import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's "muted" scheme: ten colours that stay apart in every common form of colour blindness.
COLOURS = ["#332288", "#88ccee", "#117733", "#ddcc77", "#cc6677"]
COLOURS += ["#aa4499", "#44aa99", "#999933", "#882255", "#aaaaaa"]
MARKERS = "osD^v<>pPX"
INK, FAINT = "#333333", "#dddddd"
_TICKS = 25


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write `figure` to `path` as PNG at 150 dots an inch; `path` holds the old picture or the whole new one.

    Raises ValueError for a name that does not end in .png, OSError when it cannot be written.
    """
    if not os.fspath(path).lower().endswith(".png"):
        raise ValueError(f"path: expected a name ending in .png, got {os.fspath(path)!r}")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150, facecolor="white")


def canvas(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """A figure of so many inches with axes that have a title."""
    figure = blank(width, height)
    axes = figure.add_subplot(facecolor="white")
    style(axes)
    axes.set_title(title, fontsize=13, color=INK, pad=10)
    return figure, axes


def blank(width: float, height: float) -> Figure:
    """A figure of so many inches without axes. Raises ImportError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("hat.plots needs matplotlib: pip install 'hat-kernels[plot]'") from error
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    room = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width, height), layout=room, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes) -> None:
    """Quiet lines around `axes`."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(labelsize=9, color="#999999", labelcolor=INK)


def check_names(names: Sequence[str], count: int, argument: str = "names") -> None:
    if not count:
        raise ValueError(f"{argument}: expected at least one, got none")
    if len(names) != count:
        raise ValueError(f"names: expected {count}, got {len(names)}")


def ticks_of(count: int, most: int = _TICKS) -> list[int]:
    """At most so many evenly spaced indices below `count`, starting with 0."""
    return list(range(0, count, max(1, math.ceil(count / most))))


def label(name: str, longest: int = 20) -> str:
    """`name` on one line, cut in the middle as numbers come last, and safe: `$` starts a formula, `_` hides."""
    text = " ".join(str(name).split())
    text = text if len(text) <= longest else f"{text[: longest // 2]}…{text[1 - longest // 2 :]}"
    text = text.replace("$", r"\$")
    return text if text and text[0] != "_" else f" {text}"
