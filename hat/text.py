"""Plain-text tables: columns of equal width, and names of axes that are short enough for a cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def short_name(name: str) -> str:
    """Without where a converted body keeps its graph and its gates."""
    return name.removeprefix("network.").removeprefix("gates.")


def axis_name(name: str) -> str:
    """Of a layer's own gate, the layer."""
    return short_name(name).removesuffix(".gate")


def aligned(rows: Sequence[Sequence[str]], numbers: Iterable[int] = (), *, gap: str = "  ") -> list[str]:
    """One line a row, in columns of equal width with a gap between them; the columns of numbers are flush right."""
    widths, right = [max(map(len, column)) for column in zip(*rows, strict=True)], set(numbers)
    return [
        gap.join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
