"""Tables in Markdown, made from a results file: nothing in them is typed by hand.

`python -m benchmarks.tables --write README.md` puts the short table between the lines `<!-- benchmark:cpu -->` and
`<!-- /benchmark:cpu -->`; `--check` says whether it is there already.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record

Row = dict[str, Any]

BEGIN, END = "<!-- benchmark:cpu -->", "<!-- /benchmark:cpu -->"
FLUSHED = "textbook, flush mode"
BUSY = 0.5  # beyond this load the threads of a step wait for a core that somebody else has


def full(results: dict[str, Any]) -> str:
    """Everything that was measured."""
    parts = [
        "# CPU benchmarks",
        where(results),
        "## Mean step over an annealed epoch",
        EXPLAINED,
        epoch_table(results["rows"]),
        "## Step against scale",
        "MLP, batch 64, a first task; median ms of a step, 3 steps at a time from the same state. The last column is"
        " the ratio of the step at s = 400 to the step at s = 1 in the same round: median (20th to 80th percentile).",
        *scale_tables(results["rows"]),
        "## Single operations",
        operation_table(results["rows"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


EXPLAINED = (
    "`plain` is the same network without HAT; `textbook` transcribes the paper's equations one eager operation at a"
    " time, as the field's code does; `flushed` is the textbook when its user sets flush mode. All others than"
    " `textbook` run in flush mode, which `hat train` sets. `ours / plain` is below 1 where"
    " HAT costs less than no HAT. Ratios are medians over rounds (20th to 80th percentile); ms are the mean over the"
    " epoch of the medians over rounds. `floor` is what the matmuls or the memory traffic of a HAT step need at the"
    " least at the measured rates."
)


def short(results: dict[str, Any]) -> str:
    """The part that the README shows."""
    rows = [row for row in results["rows"] if row["part"] == "epoch"]
    return "\n\n".join([epoch_table(rows, floor=False), where(results)])


def where(results: dict[str, Any]) -> str:
    """Machine, versions and commit on one line."""
    facts, machine = results["environment"], results["machine"]
    busy = f" The machine was busy at the start (load {facts['load']:.1f})." if facts["load"] > BUSY else ""
    return (
        f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, commit {facts['commit'][:9]}; measured"
        f" {machine['flops'] / 1e9:.0f} GFLOP/s in a matmul, {machine['bandwidth'] / 1e9:.1f} GB/s in a copy.{busy}"
    )


def epoch_table(rows: Iterable[Row], *, floor: bool = True) -> str:
    """One line a network, batch and locked share."""
    cases: dict[tuple[str, int, float], dict[str, Row]] = {}
    for row in rows:
        if row["part"] == "epoch":
            cases.setdefault((row["network"], row["batch"], row["locked"]), {})[row["variant"]] = row
    header = ["network", "batch", "locked", "plain", "textbook", "flushed", "ours"]
    header += ["ours / plain", "textbook / ours", "flushed / ours", *(["floor"] if floor else [])]
    lines = []
    for (network, batch, locked), by in cases.items():
        line = [network, str(batch), f"{100 * locked:.0f} %"]
        line += [f"{by[name]['epoch_ms']:.1f} ms" for name in ("plain", "textbook", FLUSHED, "ours")]
        line += [spread(by[name]["ratio_to"][other]) for name, other in RATIOS]
        lines.append(line + ([f"{by['ours']['floor_ms']:.1f} ms"] if floor else []))
    return table(header, lines)


RATIOS = (("ours", "plain"), ("textbook", "ours"), (FLUSHED, "ours"))


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


def operation_table(rows: Iterable[Row]) -> str:
    """One line an operation."""
    operations: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["part"] == "operation":
            operations.setdefault(row["operation"], {})[row["variant"]] = row
    lines = [
        [
            name,
            *(f"{by[variant]['ms']['p50']:.2f} ms" for variant in ("plain", "textbook", "ours")),
            *(spread(by[variant]["ratio_to"][other]) for variant, other in RATIOS[:2]),
        ]
        for name, by in operations.items()
    ]
    return table(["operation", "plain", "textbook", "ours", "ours / plain", "textbook / ours"], lines)


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown with columns of equal width, so that it reads in a terminal too; empty without lines."""
    if not lines:
        return ""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    cells = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (header, rule, *lines))
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def label(scale: float) -> str:
    return f"1/{1 / scale:.0f}" if scale < 0.1 else f"{scale:g}"


def spread(ratio: dict[str, float]) -> str:
    return f"{ratio['p50']:.2f} ({ratio['p20']:.2f} to {ratio['p80']:.2f})"


def insert(text: str, content: str, name: str = "text") -> str:
    """`text` with `content` between the two marks.

    Raises:
        ValueError: the marks are not there, in order, once each; names the file `name`.
    """
    begin, end = text.find(BEGIN), text.find(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or end < begin:
        raise ValueError(f"{name}: expected one {BEGIN} and one {END} behind it, got none, more or another order")
    return f"{text[: begin + len(BEGIN)]}\n\n{content.strip()}\n\n{text[end:]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if `--check` finds another table than the results give, 2 for files that do not fit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--results", type=Path, default=record.CPU, help="results file (default: %(default)s)")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", type=Path, metavar="FILE", help="replace the table between the marks in FILE")
    action.add_argument("--check", type=Path, metavar="FILE", help="fail unless FILE shows the table of the results")
    options = parser.parse_args(arguments)
    try:
        results = record.read(options.results)
        target = options.write or options.check
        if target is None:
            print(full(results), end="")
            return 0
        old = target.read_text()
        new = insert(old, short(results), str(target))
    except KeyError as error:
        print(f"{options.results}: expected results of this version, got some without {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.write:
        if new != old:
            record.write_text(target, new)
        return 0
    if new != old:
        print(f"{target}: the table is not that of {options.results}; run with --write {target}", file=sys.stderr)
    return int(new != old)


if __name__ == "__main__":
    sys.exit(main())
