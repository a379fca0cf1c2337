"""Tables of the parts memory, tasks, width, mixed and operation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.markdown import NONE, mebibytes, ms, percent, spread, table
from benchmarks.serving import APART, KINDS, MIXED, ONE
from benchmarks.step_tables import heading
from benchmarks.variants import COMPILED, IN_MATMUL, OURS, PLAIN, TEXTBOOK

Row = dict[str, Any]


def memory_table(rows: Iterable[Row]) -> str:
    """One line per locked share and variant."""
    header = ["network", "batch", "locked", "variant", "kept", "of a step", "both", "peak in pages"]
    header += ["floor kept", "floor of a step"]
    lines = []
    for row in rows:
        if row["part"] == "memory":
            kept, step = row["state_bytes"], row["step_bytes"]
            sizes = (kept, step, kept + step, row["peak_bytes"], row["floor_state_bytes"], row["floor_step_bytes"])
            case = [row["network"], str(row["batch"]), percent(row["locked"]), row["variant"]]
            lines.append(case + [mebibytes(size) for size in sizes])
    return table(header, lines)


def tasks_table(rows: Iterable[Row]) -> str:
    """One line per number of finished tasks."""
    header = ["finished tasks", "plain", "ours", "ours / plain", "ours / ours behind 1 task", "kept", "of a step"]
    lines = [
        [
            str(row["tasks"]),
            ms(row["plain_ms"]["p50"]),
            ms(row["ms"]["p50"]),
            spread(row["ratio_to"][PLAIN]),
            spread(row["ratio_to_first"]),
            mebibytes(row["state_bytes"]),
            mebibytes(row["step_bytes"]),
        ]
        for row in rows
        if row["part"] == "tasks"
    ]
    return table(header, lines)


def width_table(rows: Iterable[Row]) -> str:
    """One line per width and locked share."""
    columns = (PLAIN, TEXTBOOK, OURS, IN_MATMUL)
    ratios = ((OURS, PLAIN), (IN_MATMUL, PLAIN), (TEXTBOOK, OURS))
    variants_by_cell: dict[tuple[int, float], dict[str, Row]] = {}
    for row in rows:
        if row["part"] == "width":
            variants_by_cell.setdefault((row["width"], row["locked"]), {})[row["variant"]] = row
    lines = []
    for (width, locked), variants in variants_by_cell.items():
        line = [str(width), percent(locked), *(ms(variants[name]["epoch_ms"]) for name in columns)]
        line += [spread(variants[name]["ratio_to"][other]) for name, other in ratios]
        lines.append([*line, ms(variants[OURS]["floor_ms"])])
    header = ["width", "locked", *map(heading, columns), *(f"{heading(a)} / {heading(b)}" for a, b in ratios), "floor"]
    return table(header, lines)


def mixed_table(rows: Iterable[Row]) -> str:
    """One line per network and batch."""
    variants_by_operation: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["part"] == "mixed":
            variants_by_operation.setdefault(row["operation"], {})[row["variant"]] = row
    ratios = ((MIXED, ONE), (APART, MIXED))
    lines = [
        [
            name,
            *(ms(variants[kind]["ms"]["p50"]) for kind in KINDS),
            *(spread(variants[a]["ratio_to"][b]) for a, b in ratios),
        ]
        for name, variants in variants_by_operation.items()
    ]
    return table(["answers for", *KINDS, *(f"{a} / {b}" for a, b in ratios)], lines)


def operation_table(rows: Iterable[Row]) -> str:
    """One line per operation."""
    ratios = ((OURS, PLAIN), (TEXTBOOK, OURS), (OURS, COMPILED))
    variants_by_operation: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["part"] == "operation":
            variants_by_operation.setdefault(row["operation"], {})[row["variant"]] = row
    lines = [
        [
            name,
            *(f"{variants[variant]['ms']['p50']:.2f} ms" for variant in (PLAIN, TEXTBOOK, OURS)),
            f"{variants[COMPILED]['ms']['p50']:.2f} ms" if COMPILED in variants else NONE,
            *(spread(variants[variant]["ratio_to"].get(other)) for variant, other in ratios),
        ]
        for name, variants in variants_by_operation.items()
    ]
    header = ["operation", PLAIN, TEXTBOOK, OURS, "compiled", *(f"{a} / {heading(b)}" for a, b in ratios)]
    return table(header, lines)
