"""Pictures of the units that every task uses: bars for every layer, and images of the channels of a convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hat.arguments import check_type
from hat.metrics import as_tensor, fractions
from hat.plots.canvas import COLOURS, INK, blank, check_names, label, listed, style, ticks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS, _COLUMNS = 24, 4  # at most 24 panels; if there are more layers, some evenly spaced layers are shown
_STRIP = 128  # the most channels side by side that a reader can still tell apart
_NEW, _REUSED, _OTHERS, _FREE = COLOURS[0], COLOURS[1], "#cccccc", "#f5f5f5"


def units(
    masks: Sequence[Any], layers: Sequence[str], names: Sequence[str], *, reserved: Sequence[Any] | None = None
) -> Figure:
    """Draw one panel per layer and one bar per task.

    A bar shows the share of units that the task shares with earlier tasks, that it uses for the first time, that only
    earlier tasks use, and that are free.

    Args:
        masks: for every layer a mask [T, N], in [0, 1]. A task uses a unit if the mask exceeds 0.5.
        layers: the names of the layers.
        names: the names of the T tasks.
        reserved: for every layer a mask [N]: the units that were used before the first task.

    Raises:
        ValueError: a shape or a value is wrong.
    """
    masks, names = listed("masks", masks), listed("names", names)
    reserved = None if reserved is None else listed("reserved", reserved)
    check_names(layers, len(masks), "layers")
    if reserved is not None and len(reserved) != len(masks):
        raise ValueError(f"reserved: expected {len(masks)}, got {len(reserved)}")
    reserved = reserved or [None] * len(masks)
    used = [_used(mask, names, layer_reserved) for mask, layer_reserved in zip(masks, reserved, strict=True)]
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
    part = f" of {len(shown)} of {len(layers)} layers" if len(shown) < len(layers) else ""
    figure.suptitle(f"Units in use by each task{part}", fontsize=13, color=INK)
    for axes in panels[max(0, len(shown) - columns) : len(shown)]:  # the lowest panel of every column
        axes.set_xlabel("task, in the order learned", fontsize=10, color=INK)
        axes.tick_params(labelbottom=True)
    for axes in panels[::columns]:
        axes.set_ylabel("units (%)", fontsize=10, color=INK)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    return figure


def channels(mask: Any, layer: str, names: Sequence[str], *, reserved: Any = None) -> Figure:
    """Draw the masks of T tasks over the N channels of a layer as an image with one row per task.

    The image is cut into strips of 128 channels. If the row's task uses a channel, the colour says how many tasks use
    the channel. Otherwise the colour says whether other tasks use the channel, or the channel is free.

    Args:
        mask: [T, N], in [0, 1]. A task uses a channel if the mask exceeds 0.5.
        layer: the name of the layer.
        names: the names of the T tasks.
        reserved: [N], the channels that were used before the first task.

    Raises:
        ValueError: a shape or a value is wrong.
    """
    check_type("layer", layer, str, "a string")
    names = listed("names", names)
    used, before = _used(mask, names, reserved)
    # 0: free; 1: used by other tasks only; 1 + n: used by this task, and by n tasks in all
    codes = torch.where(used, 1 + used.sum(0), (used.any(0) | before).long())
    strips = codes.split(_STRIP, 1)
    height = min(0.34, max(0.085, 2.6 / len(names)))  # the height of a row in inches
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
    """The units that every task uses [T, N], bool, and the units that were used before the first task [N], bool."""
    check_names(names, len(names))
    shares = as_tensor(mask, "masks")
    shares = fractions(shares, "masks", (len(names), shares.shape[-1] if shares.ndim else 0))
    before = torch.zeros(shares.shape[1]) if reserved is None else fractions(reserved, "reserved", shares.shape[1:])
    return shares > 0.5, before > 0.5


def _bars(axes: Axes, used: Tensor, before: Tensor) -> None:
    """Draw one bar per task, see `units`.

    Args:
        axes: the axes to draw on.
        used: [T, N] bool, the units that every task uses.
        before: [N] bool, the units that were used before the first task.
    """
    used_so_far = torch.cat([before[None], used]).cumsum(0) > 0
    new, reused, others = used & ~used_so_far[:-1], used & used_so_far[:-1], used_so_far[:-1] & ~used
    tasks, bottom = range(1, len(used) + 1), torch.zeros(len(used), dtype=torch.float64)
    parts = {
        "shared with earlier tasks": (reused, _REUSED),
        "new": (new, _NEW),
        "of earlier tasks only": (others, _OTHERS),
    }
    for name, (part, colour) in {**parts, "free": (~used_so_far[1:], _FREE)}.items():
        share = 100 * part.double().mean(1)
        axes.bar(tasks, share.numpy(), 0.8, bottom=bottom.numpy(), color=colour, label=name)
        bottom = bottom + share
    style(axes)
    axes.set(ylim=(0, 100), xlim=(0.4, max(4, len(used)) + 0.6))
    axes.set_xticks([tick + 1 for tick in ticks_of(len(used), 10)])


def _channel_colours(most: int) -> list[Any]:
    """The colours of a free channel, of a channel of other tasks only, and of a channel that 1, 2, ... tasks use."""
    from matplotlib import colormaps

    scale = colormaps["viridis_r"]
    return [_FREE, _OTHERS, *(scale(0.15 + 0.85 * index / max(1, most - 1)) for index in range(most))]


def _image(axes: Axes, codes: Tensor, first: int, names: Sequence[str], colours: list[Any], *, room: float) -> None:
    """Draw the codes [T, n] of the channels from number `first` on, with the first task at the top.

    Args:
        axes: the axes to draw on.
        codes: [T, n], indices into `colours`.
        first: the number of the first channel.
        names: the names of the T tasks.
        colours: the colour of every code.
        room: the height of the image in inches.
    """
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
