"""Which units every task uses: as bars for every layer, and as images of the masks of a convolution's channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hat.metrics import as_tensor, fractions
from hat.plots.canvas import COLOURS, INK, blank, check_names, label, style, ticks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS, _COLUMNS = 24, 4  # of more layers some are shown, evenly spaced
_STRIP = 128  # channels side by side that can still be told apart
_NEW, _REUSED, _OTHERS, _FREE = COLOURS[0], COLOURS[1], "#cccccc", "#f5f5f5"


def units(
    masks: Sequence[Any], layers: Sequence[str], names: Sequence[str], *, reserved: Sequence[Any] | None = None
) -> Figure:
    """What each of T tasks uses of each layer: units that are new, units that earlier tasks use too, and what is left.

    masks: of every layer [T, N], in [0, 1]; used where it exceeds 0.5. layers: their names. names: of the tasks.
    reserved: of every layer [N], units that were used before the first task.
    Raises ValueError for other shapes or values.
    """
    check_names(layers, len(masks), "layers")
    if reserved is not None and len(reserved) != len(masks):
        raise ValueError(f"reserved: expected {len(masks)}, got {len(reserved)}")
    before = reserved or [None] * len(masks)
    used = [_used(mask, names, first) for mask, first in zip(masks, before, strict=True)]
    shown = range(0, len(layers), math.ceil(len(layers) / _PANELS))
    rows = math.ceil(len(shown) / _COLUMNS)
    columns = math.ceil(len(shown) / rows)
    figure = blank(max(6.5, 0.8 + 2.7 * columns), 1.5 + 1.8 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, index in zip(panels, shown, strict=False):
        _bars(axes, *used[index])
        axes.set_title(f"{label(layers[index])} ({used[index][0].shape[1]:,})", fontsize=10, color=INK)
    some = f" of {len(shown)} of {len(layers)} layers" if len(shown) < len(layers) else ""
    figure.suptitle(f"Units in use by each task{some}", fontsize=13, color=INK)
    for axes in panels[max(0, len(shown) - columns) : len(shown)]:  # with no panel below them
        axes.set_xlabel("task, in the order learned", fontsize=10, color=INK)
        axes.tick_params(labelbottom=True)
    for axes in panels[::columns]:
        axes.set_ylabel("units (%)", fontsize=10, color=INK)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    return figure


def channels(mask: Any, layer: str, names: Sequence[str], *, reserved: Any = None) -> Figure:
    """The masks of T tasks over a layer's N channels as an image, a row a task, in strips of 128 channels.

    mask: [T, N] in [0, 1]; used where it exceeds 0.5. A channel that a task uses has a colour for how many do; one that
    others use has one for that. names: of the tasks. reserved: [N], channels that were used before the first task.
    Raises ValueError for other shapes or values.
    """
    used, before = _used(mask, names, reserved)
    codes = torch.where(
        used, 1 + used.sum(0), (used.any(0) | before).long()
    )  # free, others', its own, of two tasks ...
    strips = codes.split(_STRIP, 1)
    height = min(0.34, max(0.085, 2.6 / len(names)))  # of a row, in inches
    figure = blank(11, 1.6 + len(strips) * (0.45 + height * len(names)))
    figure.suptitle(f"Channels of {label(layer)} that each task uses", fontsize=13, color=INK)
    colours = _channel_colours(max(1, int(used.sum(0).max())))
    panels = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    for index, (axes, strip) in enumerate(zip(panels, strips, strict=True)):
        _image(axes, strip, index * _STRIP, names, colours, room=height * len(names))
    panels[-1].set_xlabel("channel", fontsize=10, color=INK)
    _legend(figure, colours)
    return figure


def _used(mask: Any, names: Sequence[str], reserved: Any) -> tuple[Tensor, Tensor]:
    """[T, N] bool of the tasks, and [N] bool of what was used before the first."""
    check_names(names, len(names))
    found = as_tensor(mask, "masks")
    found = fractions(found, "masks", (len(names), found.shape[-1] if found.ndim else 0))
    before = torch.zeros(found.shape[1]) if reserved is None else fractions(reserved, "reserved", found.shape[1:])
    return found > 0.5, before > 0.5


def _bars(axes: Axes, used: Tensor, before: Tensor) -> None:
    """A bar a task, of what it uses for the first time, what it shares with earlier ones, and what it leaves alone."""
    ever = torch.cat([before[None], used]).cumsum(0) > 0
    new, reused, others = used & ~ever[:-1], used & ever[:-1], ever[:-1] & ~used
    tasks, bottom = range(1, len(used) + 1), torch.zeros(len(used), dtype=torch.float64)
    parts = {
        "shared with earlier tasks": (reused, _REUSED),
        "new": (new, _NEW),
        "of earlier tasks only": (others, _OTHERS),
    }
    for name, (part, colour) in {**parts, "free": (~ever[1:], _FREE)}.items():
        share = 100 * part.double().mean(1)
        axes.bar(tasks, share.numpy(), 0.8, bottom=bottom.numpy(), color=colour, label=name)
        bottom = bottom + share
    style(axes)
    axes.set(ylim=(0, 100), xlim=(0.4, max(4, len(used)) + 0.6))
    axes.set_xticks([tick + 1 for tick in ticks_of(len(used), 10)])


def _channel_colours(most: int) -> list[Any]:
    """Of a channel that is free, of one that others use, and of one that 1, 2, ... tasks use."""
    from matplotlib import colormaps

    scale = colormaps["viridis_r"]
    return [_FREE, _OTHERS, *(scale(0.15 + 0.85 * index / max(1, most - 1)) for index in range(most))]


def _image(axes: Axes, codes: Tensor, first: int, names: Sequence[str], colours: list[Any], *, room: float) -> None:
    """Codes [T, n] of channels from `first` on, the first task at the top, in so many inches."""
    from matplotlib.colors import ListedColormap

    tasks, count = codes.shape
    edges = [first + index - 0.5 for index in range(count + 1)], [index - 0.5 for index in range(tasks + 1)]
    kinds = ListedColormap(colours)
    axes.pcolormesh(*edges, codes.numpy(), cmap=kinds, vmin=-0.5, vmax=len(colours) - 0.5, edgecolor="white", lw=0.3)
    axes.set(xlim=(first - 0.5, first + (_STRIP if first else count) - 0.5), ylim=(tasks - 0.5, -0.5))
    ticks = ticks_of(tasks, max(1, int(room / 0.17)))
    axes.set_yticks(ticks, [label(names[tick]) for tick in ticks])
    axes.set_xticks(range(first, first + count, max(1, min(_STRIP, first + count) // 8)))
    style(axes)
    axes.spines[:].set_visible(False)


def _legend(figure: Figure, colours: list[Any]) -> None:
    from matplotlib.patches import Patch

    kinds = {0: "free", 1: "of other tasks only", 2: "of this task alone"}
    kinds |= {3 + tick: f"of {2 + tick} tasks" for tick in ticks_of(len(colours) - 3, 5)}
    handles = [Patch(facecolor=colours[code], edgecolor="#999999", linewidth=0.5, label=kinds[code]) for code in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
