"""Tables in Markdown, made from the results file of the CPU benchmark. No number is typed by hand.

`python -m benchmarks.tables` prints all tables: `benchmarks/results/cpu.md`.
`python -m benchmarks.tables --write docs/measurements.md` puts the short table between the lines
`<!-- benchmark:cpu -->` and `<!-- /benchmark:cpu -->`. `--check` fails if the page has another table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import explained, growth_tables, record, step_tables
from benchmarks.markdown import inserted, table

__all__ = ["MARKER", "full", "main", "short", "table", "where"]

MARKER = "benchmark:cpu"
BUSY = 0.5  # above this load the threads of a step wait for cores that other programs use


def full(results: dict[str, Any]) -> str:
    """All tables as a page. A part that was not measured has no heading."""
    rows = results["rows"]
    sections = (
        ("Mean step over an annealed epoch", explained.EPOCH, [step_tables.epoch_table(rows)]),
        ("Forward, backward, update", explained.PHASES, [step_tables.phase_table(rows)]),
        ("Step against scale", explained.SCALE, step_tables.scale_tables(rows)),
        ("Memory of a step", explained.MEMORY, [growth_tables.memory_table(rows)]),
        ("Many tasks", explained.TASKS, [growth_tables.tasks_table(rows)]),
        ("Width", explained.WIDTH, [growth_tables.width_table(rows)]),
        ("Many tasks in one batch", explained.MIXED, [growth_tables.mixed_table(rows)]),
        ("Single operations", "", [growth_tables.operation_table(rows)]),
    )
    parts = ["# CPU benchmarks", where(results)]
    for heading, text, tables in sections:
        if any(tables):
            parts += [f"## {heading}", text, *tables]
    return "\n\n".join(part for part in parts if part) + "\n"


def short(results: dict[str, Any]) -> str:
    """The tables that docs/measurements.md shows."""
    rows = results["rows"]
    tables = (step_tables.short_epoch_table(rows), growth_tables.mixed_table(rows), where(results))
    return "\n\n".join(text for text in tables if text)


def where(results: dict[str, Any]) -> str:
    """Machine, versions and commit on one line."""
    facts, machine = results["environment"], results["machine"]
    busy = f" The machine was busy at the start (load {facts['load']:.1f})." if facts["load"] > BUSY else ""
    return (
        f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, commit {facts['commit'][:9]}; measured"
        f" {machine['flops'] / 1e9:.0f} GFLOP/s in a matmul, {machine['bandwidth'] / 1e9:.1f} GB/s in a copy.{busy}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Returns:
        The exit status: 1 if `--check` finds another table in the page, 2 if a file cannot be used, otherwise 0.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--results", type=Path, default=record.CPU, help="results file (default: %(default)s)")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", type=Path, metavar="FILE", help="replace the table between the marks in FILE")
    action.add_argument("--check", type=Path, metavar="FILE", help="fail if FILE has another table than the results")
    options = parser.parse_args(arguments)
    try:
        results = record.read(options.results)
        target = options.write or options.check
        if target is None:
            print(full(results), end="")
            return 0
        old = target.read_text()
        new = inserted(old, MARKER, short(results), str(target))
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
        print(f"{target}: the table differs from {options.results}; run with --write {target}", file=sys.stderr)
    return int(new != old)


if __name__ == "__main__":
    sys.exit(main())
