"""Plain-text tables: aligned columns, and names of axes that are short enough for a cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def short_name(name: str) -> str:
    """The name of a module without the prefixes `network.` and `gates.` of a converted body."""
    return name.removeprefix("network.").removeprefix("gates.")


def axis_name(name: str) -> str:
    """The name of an axis: the name of the layer if the gate belongs to a layer."""
    return short_name(name).removesuffix(".gate")


def aligned(rows: Sequence[Sequence[str]], numbers: Iterable[int] = (), *, gap: str = "  ") -> list[str]:
    """Pad the cells of a table, so that its columns have equal widths.

    Args:
        rows: of cells.
        numbers: the columns to align to the right; the others are aligned to the left.
        gap: what stands between two columns.

    Returns:
        One line a row.
    """
    widths, right = [max(map(len, column)) for column in zip(*rows, strict=True)], set(numbers)
    return [
        gap.join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
