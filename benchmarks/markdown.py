"""Cells and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from hat.text import aligned

NONE = "-"  # not measured


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown with columns of equal width, so that it reads in a terminal too; empty without lines."""
    if not lines:
        return ""
    rule = ["-" * max(map(len, column)) for column in zip(header, *lines, strict=True)]
    # The bars are columns of their own.
    rows = [["|", *(text for cell in line for text in (cell, "|"))] for line in (header, rule, *lines)]
    return "\n".join(aligned(rows, gap=" "))


def inserted(page: str, marker: str, content: str, name: str = "page") -> str:
    """`page` with `content` between the lines `<!-- marker -->` and `<!-- /marker -->`.

    Raises:
        ValueError: the marks are not there, in order, once each; names the page `name`.
    """
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    begin, end = page.find(opening), page.find(closing)
    if page.count(opening) != 1 or page.count(closing) != 1 or end < begin:
        raise ValueError(f"{name}: expected one {opening} and one {closing} behind it, got none, more or another order")
    return f"{page[: begin + len(opening)]}\n\n{content.strip()}\n\n{page[end:]}"


def label(scale: float) -> str:
    return f"1/{1 / scale:.0f}" if scale < 0.1 else f"{scale:g}"


def spread(ratio: dict[str, float] | None) -> str:
    """Median (20th to 80th percentile)."""
    return f"{ratio['p50']:.2f} ({ratio['p20']:.2f} to {ratio['p80']:.2f})" if ratio else NONE


def ms(value: float | None) -> str:
    """With as many digits as a short or long time needs."""
    return NONE if value is None else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def mebibytes(count: float | None) -> str:
    return NONE if count is None else f"{count / 2**20:.1f} MiB"
