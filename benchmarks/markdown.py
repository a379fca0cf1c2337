"""Tables in Markdown, and the text in their cells."""

from __future__ import annotations

from collections.abc import Sequence

from hat.text import aligned

NONE = "-"  # the cell of a value that was not measured


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it can be read in a terminal too. Without lines, the text is empty."""
    if not lines:
        return ""
    rule = ["-" * max(map(len, column)) for column in zip(header, *lines, strict=True)]
    # Every bar is a column, so that `aligned` pads around the bars.
    rows = [["|", *(text for cell in line for text in (cell, "|"))] for line in (header, rule, *lines)]
    return "\n".join(aligned(rows, gap=" "))


def inserted(page: str, marker: str, content: str, name: str = "page") -> str:
    """Replace the text between the marks `<!-- marker -->` and `<!-- /marker -->`.

    Args:
        page: the text of the page.
        marker: the name of the marks.
        content: the new text between the marks.
        name: the name of the page in the error.

    Returns:
        The new text of the page.

    Raises:
        ValueError: a mark is missing or there twice, or the marks are in the wrong order.
    """
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    begin, end = page.find(opening), page.find(closing)
    if page.count(opening) != 1 or page.count(closing) != 1 or end < begin:
        raise ValueError(f"{name}: expected one {opening} and then one {closing}, got none, more or another order")
    return f"{page[: begin + len(opening)]}\n\n{content.strip()}\n\n{page[end:]}"


def label(scale: float) -> str:
    """A scale: `1/400` for a small one, `30` for a large one."""
    return f"1/{1 / scale:.0f}" if scale < 0.1 else f"{scale:g}"


def spread(ratio: dict[str, float] | None) -> str:
    """A ratio as median (20th to 80th percentile)."""
    return f"{ratio['p50']:.2f} ({ratio['p20']:.2f} to {ratio['p80']:.2f})" if ratio else NONE


def ms(value: float | None) -> str:
    """A time in ms: one digit after the point, two if the time is below 1 ms."""
    return NONE if value is None else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def mebibytes(count: float | None) -> str:
    return NONE if count is None else f"{count / 2**20:.1f} MiB"
