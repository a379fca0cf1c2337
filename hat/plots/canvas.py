"""Parts that all pictures share: the canvas, the colours, labels of limited length, and saving to a file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hat.checkpoint import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's "muted" scheme: ten colours that people with any common form of colour blindness can tell apart.
COLOURS = ["#332288", "#88ccee", "#117733", "#ddcc77", "#cc6677"]
COLOURS += ["#aa4499", "#44aa99", "#999933", "#882255", "#aaaaaa"]
MARKERS = "osD^v<>pPX"
INK, FAINT = "#333333", "#dddddd"
_TICKS = 25  # the most labels on an axis


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write `figure` to a PNG file with 150 dots per inch. If writing fails, the file keeps the old picture.

    Args:
        figure: the picture.
        path: the name of the file; ends in `.png`.

    Raises:
        ValueError: the name does not end in `.png`.
        OSError: the file cannot be written.
    """
    if not os.fspath(path).lower().endswith(".png"):
        raise ValueError(f"path: expected a name ending in .png, got {os.fspath(path)!r}")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150, facecolor="white", metadata={"Creator": "hat"})


def canvas(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` inches, and its axes with the title."""
    figure = blank(width, height)
    axes = figure.add_subplot(facecolor="white")
    style(axes)
    axes.set_title(title, fontsize=13, color=INK, pad=10)
    return figure, axes


def blank(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches without axes.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("hat.plots needs matplotlib: pip install 'hat-kernels[plot]'") from error
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes) -> None:
    """Draw the frame of `axes` in grey on two sides only."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(labelsize=9, color="#999999", labelcolor=INK)


def check_names(names: Sequence[str], count: int, argument: str = "names") -> None:
    """Raise ValueError if `count` is 0, or if there are more or fewer names than `count`."""
    if not count:
        raise ValueError(f"{argument}: expected at least one, got none")
    if len(names) != count:
        raise ValueError(f"names: expected {count}, got {len(names)}")


def ticks_of(count: int, most: int = _TICKS) -> list[int]:
    """At most `most` evenly spaced indices below `count`, starting with 0."""
    return list(range(0, count, max(1, math.ceil(count / most))))


def label(name: str, longest: int = 20) -> str:
    """A label for `name`: one line of at most `longest` characters.

    A longer name is cut in the middle, because names often end in a number. matplotlib would read `$` as the start of
    a formula, so `$` is escaped. A legend would hide a name that starts with `_`, so a space is put before the name.
    """
    text = " ".join(str(name).split())
    text = text if len(text) <= longest else f"{text[: longest // 2]}…{text[1 - longest // 2 :]}"
    text = text.replace("$", r"\$")
    return text if text and text[0] != "_" else f" {text}"
