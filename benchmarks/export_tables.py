"""Tables made from the results file of `benchmarks.export`."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.markdown import percent, spread, table
from benchmarks.tables import BUSY

MARKER = "export"

Row = dict[str, Any]


def text(results: dict[str, Any]) -> str:
    """Both tables, the commands, and the machine. A part without rows is left out."""
    rows = results["rows"]
    facts = next((row for row in rows if "cpu" in row), results["environment"])
    machine = f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, commit {facts['commit'][:9]}."
    machine += f" The machine was busy (load {facts['load']:.1f})." if facts["load"] > BUSY else ""
    commands = dict.fromkeys(row["command"] for row in rows if "command" in row)
    command_list = "\n".join(f"- `{command}`" for command in commands)
    return "\n\n".join(part for part in (_trained(rows), command_list, _shares(rows), machine) if part)


def line(row: Row) -> str:
    """A row as one line of text, to show progress."""
    name = row.get("name") or f"{row['share']:.2f} of each layer"
    return f"{row['network']}, {name}, batch {row['batch']}: exported / dense {spread(row['ratio'])}"


def _trained(rows: list[Row]) -> str:
    lines = []
    for first, *other_batches in _grouped(rows, "trained", "network", "name"):
        kept = statistics.fmean(units["kept"] / units["of"] for units in first["units"].values())
        parameters = first["parameters"]
        accuracy = [f"{100 * first[name]:.2f} %" for name in ("accuracy", "accuracy_exported")]
        cells = [first["network"], first["name"], percent(kept), percent(parameters["exported"] / parameters["dense"])]
        lines.append([*cells, *accuracy, *map(_times, (first, *other_batches))])
    batches = dict.fromkeys(f"batch {row['batch']}: dense to exported, ms" for row in rows if row["part"] == "trained")
    return table(["network", "task", "units", "parameters", "accuracy", "exported", *batches], lines)


def _shares(rows: list[Row]) -> str:
    lines = []
    for (row,) in _grouped(rows, "shares", "network", "batch", "share"):
        share, ratio = row["share"], row["ratio"]["p50"]
        work = row["flops"]["exported"] / row["flops"]["dense"]
        cells = [row["network"], str(row["batch"]), percent(share), _times(row), spread(row["ratio"])]
        lines.append([*cells, f"{work:.3f}", f"{ratio / share**2:.2f}", f"{ratio / work:.2f}"])
    header = [
        "network",
        "batch",
        "p",
        "dense to exported, ms",
        "time / dense",
        "work / dense",
        "time / p²",
        "time / work",
    ]
    return table(header, lines)


def _times(row: Row) -> str:
    dense, exported = (row["ms"][name]["p50"] for name in ("dense", "exported"))
    return f"{dense:.2f} to {exported:.2f}"


def _grouped(rows: list[Row], part: str, *keys: str) -> list[list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["part"] == part:
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(groups.values())
