"""Tables of whole steps: over an annealed epoch, by phase, and against the scale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.markdown import NONE, label, ms, percent, spread, table
from benchmarks.step import PHASES
from benchmarks.variants import COMPILED, FLUSHED, IN_MATMUL, OURS, PLAIN, TEXTBOOK

Row = dict[str, Any]
Cells = dict[tuple[str, int, float], dict[str, Row]]
"""Rows by network, batch and locked share, then by variant."""

HEADINGS = {FLUSHED: "flushed", IN_MATMUL: "in matmul", COMPILED: "compiled"}
REQUIRED = (PLAIN, TEXTBOOK, OURS)  # of every cell; the others may not have run there
RATIOS = ((OURS, PLAIN), (TEXTBOOK, OURS), (FLUSHED, OURS))
MORE_RATIOS = (*RATIOS[:1], (IN_MATMUL, PLAIN), (COMPILED, PLAIN), *RATIOS[1:])


def epoch_table(rows: Iterable[Row]) -> str:
    """One line a network, batch and locked share."""
    columns = (PLAIN, TEXTBOOK, FLUSHED, OURS, IN_MATMUL, COMPILED)
    return _epochs(cells(rows), columns, MORE_RATIOS, floor=True)


def short_epoch_table(rows: Iterable[Row]) -> str:
    """As `epoch_table`, for a narrow page: the shares at which most variants ran, fewer columns."""
    found = _at_common_shares(cells(rows))
    return _epochs(found, (PLAIN, TEXTBOOK, FLUSHED, OURS, IN_MATMUL), (*MORE_RATIOS[:2], *RATIOS[1:]), floor=False)


def cells(rows: Iterable[Row]) -> Cells:
    """The rows of the epoch part by network, batch and share, then by variant.

    Raises:
        KeyError: names a variant that every cell has.
    """
    found: Cells = {}
    for row in rows:
        if row["part"] == "epoch":
            found.setdefault((row["network"], row["batch"], row["locked"]), {})[row["variant"]] = row
    for by in found.values():
        for name in REQUIRED:
            if name not in by:
                raise KeyError(name)
    return found


def _at_common_shares(found: Cells) -> Cells:
    """Without the shares at which no network ran all variants."""
    shares = {locked for (_, _, locked), by in found.items() if FLUSHED in by}
    return {key: by for key, by in found.items() if key[2] in shares}


def _epochs(
    found: Cells,
    columns: Sequence[str],
    ratios: Sequence[tuple[str, str]],
    *,
    floor: bool,
) -> str:
    header = ["network", "batch", "locked", *map(heading, columns)]
    header += [f"{heading(a)} / {heading(b)}" for a, b in ratios] + (["floor"] if floor else [])
    lines = []
    for (network, batch, locked), by in found.items():
        line = [network, str(batch), percent(locked)]
        line += [ms(by[name]["epoch_ms"]) if name in by else NONE for name in columns]
        line += [spread(by[name]["ratio_to"][other] if name in by else None) for name, other in ratios]
        lines.append(line + ([ms(by[OURS]["floor_ms"])] if floor else []))
    return table(header, lines)


def phase_table(rows: Iterable[Row]) -> str:
    """Forward / backward / update, one line a network, batch and share at which most variants ran."""
    columns = (PLAIN, TEXTBOOK, OURS, IN_MATMUL, COMPILED)
    lines = []
    for (network, batch, locked), by in _at_common_shares(cells(rows)).items():
        times = [by[name]["phase_ms"] if name in by else None for name in columns]
        floor = by[OURS]["phase_floor_ms"]
        lines.append([network, str(batch), percent(locked), *map(_split, [*times, floor])])
    return table(["network", "batch", "locked", *map(heading, columns), "floor"], lines)


def _split(times: dict[str, float] | None) -> str:
    return " / ".join(f"{times[phase]:.1f}" for phase in PHASES) if times else NONE


def heading(name: str) -> str:
    return HEADINGS.get(name, name)


def scale_tables(rows: Iterable[Row]) -> list[str]:
    """One table a state of the network: variants by scale."""
    states: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row["part"] == "scale":
            states.setdefault(row["state"], {}).setdefault(row["variant"], []).append(row)
    tables = []
    for state, variants in states.items():
        scales = [row["scale"] for row in next(iter(variants.values()))]
        header = [f"embeddings {state}", *(f"s = {label(scale)}" for scale in scales), "s = 400 / s = 1"]
        lines = [
            [name, *(f"{row['ms']['p50']:.1f}" for row in found), spread(found[-1]["ratio_to_scale_1"])]
            for name, found in variants.items()
        ]
        tables.append(table(header, lines))
    return tables
