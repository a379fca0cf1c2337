"""Tables of whole steps: over an annealed epoch, by phase, and over the scale."""

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
REQUIRED = (PLAIN, TEXTBOOK, OURS)  # variants that run in every cell; other variants may be missing
RATIOS = ((OURS, PLAIN), (TEXTBOOK, OURS), (FLUSHED, OURS))
MORE_RATIOS = (*RATIOS[:1], (IN_MATMUL, PLAIN), (COMPILED, PLAIN), *RATIOS[1:])


def epoch_table(rows: Iterable[Row]) -> str:
    """One line per network, batch and locked share."""
    columns = (PLAIN, TEXTBOOK, FLUSHED, OURS, IN_MATMUL, COMPILED)
    return _epochs(cells(rows), columns, MORE_RATIOS, floor=True)


def short_epoch_table(rows: Iterable[Row]) -> str:
    """Like `epoch_table`, but narrower: fewer columns, and only the locked shares at which most variants ran."""
    common = _at_common_shares(cells(rows))
    return _epochs(common, (PLAIN, TEXTBOOK, FLUSHED, OURS, IN_MATMUL), (*MORE_RATIOS[:2], *RATIOS[1:]), floor=False)


def cells(rows: Iterable[Row]) -> Cells:
    """The rows of the part `epoch` by network, batch and locked share, then by variant.

    Raises:
        KeyError: a cell lacks a variant of `REQUIRED`; the error names the variant.
    """
    variants_by_cell: Cells = {}
    for row in rows:
        if row["part"] == "epoch":
            variants_by_cell.setdefault((row["network"], row["batch"], row["locked"]), {})[row["variant"]] = row
    for variants in variants_by_cell.values():
        for name in REQUIRED:
            if name not in variants:
                raise KeyError(name)
    return variants_by_cell


def _at_common_shares(variants_by_cell: Cells) -> Cells:
    """Keep only cells with a locked share at which some network ran most variants."""
    shares = {locked for (_, _, locked), variants in variants_by_cell.items() if FLUSHED in variants}
    return {key: variants for key, variants in variants_by_cell.items() if key[2] in shares}


def _epochs(
    variants_by_cell: Cells,
    columns: Sequence[str],
    ratios: Sequence[tuple[str, str]],
    *,
    floor: bool,
) -> str:
    header = ["network", "batch", "locked", *map(heading, columns)]
    header += [f"{heading(a)} / {heading(b)}" for a, b in ratios] + (["floor"] if floor else [])
    lines = []
    for (network, batch, locked), variants in variants_by_cell.items():
        line = [network, str(batch), percent(locked)]
        line += [ms(variants[name]["epoch_ms"]) if name in variants else NONE for name in columns]
        line += [spread(variants[name]["ratio_to"][other] if name in variants else None) for name, other in ratios]
        lines.append(line + ([ms(variants[OURS]["floor_ms"])] if floor else []))
    return table(header, lines)


def phase_table(rows: Iterable[Row]) -> str:
    """Forward / backward / update: one line per network, batch and locked share at which most variants ran."""
    columns = (PLAIN, TEXTBOOK, OURS, IN_MATMUL, COMPILED)
    lines = []
    for (network, batch, locked), variants in _at_common_shares(cells(rows)).items():
        times = [variants[name]["phase_ms"] if name in variants else None for name in columns]
        floor = variants[OURS]["phase_floor_ms"]
        lines.append([network, str(batch), percent(locked), *map(_split, [*times, floor])])
    return table(["network", "batch", "locked", *map(heading, columns), "floor"], lines)


def _split(times: dict[str, float] | None) -> str:
    return " / ".join(f"{times[phase]:.1f}" for phase in PHASES) if times else NONE


def heading(name: str) -> str:
    """The name of a variant in the header of a table."""
    return HEADINGS.get(name, name)


def scale_tables(rows: Iterable[Row]) -> list[str]:
    """One table per state of the network, with one line per variant and one column per scale."""
    states: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row["part"] == "scale":
            states.setdefault(row["state"], {}).setdefault(row["variant"], []).append(row)
    tables = []
    for state, variants in states.items():
        scales = [row["scale"] for row in next(iter(variants.values()))]
        header = [f"embeddings {state}", *(f"s = {label(scale)}" for scale in scales), "s = 400 / s = 1"]
        lines = [
            [name, *(f"{row['ms']['p50']:.1f}" for row in variant_rows), spread(variant_rows[-1]["ratio_to_scale_1"])]
            for name, variant_rows in variants.items()
        ]
        tables.append(table(header, lines))
    return tables
