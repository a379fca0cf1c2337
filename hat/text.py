"""Names of modules and tensors, and plain-text tables with aligned columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def dotted(*names: str) -> str:
    """The full name of a tensor or module inside of others. The name of a network itself is empty, and left out."""
    return ".".join(filter(None, names))


def short_name(name: str) -> str:
    """The name of a module without the prefixes `network.` and `gates.` of a converted body."""
    return name.removeprefix("network.").removeprefix("gates.")


def axis_name(name: str) -> str:
    """The short name of a gate without the ending `.gate`, so that the gate of a layer has the layer's name."""
    return short_name(name).removesuffix(".gate")


def printable(text: str) -> str:
    """`text` on one line, without characters that steer a terminal, and without halves of characters."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def aligned(rows: Sequence[Sequence[str]], numbers: Iterable[int] = (), *, gap: str = "  ") -> list[str]:
    """Pad the cells of a table, so that its columns have equal widths.

    Args:
        rows: the rows of the table; each row is a list of cells.
        numbers: the indices of columns that are aligned to the right; the other columns are aligned to the left.
        gap: the text between two columns.

    Returns:
        One line per row.
    """
    widths, right = [max(map(len, column)) for column in zip(*rows, strict=True)], set(numbers)
    return [
        gap.join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
