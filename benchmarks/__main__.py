"""`python -m benchmarks`: measure everything on this CPU and write `benchmarks/results/cpu.*`.

About 12 minutes on 2 quiet cores; `--parts` picks.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import cost, record, suite, tables
from benchmarks.facts import environment
from benchmarks.markdown import mebibytes
from benchmarks.plan import Plan, workers


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, default=record.CPU, help="results file (default: %(default)s)")
    parts, those = list(suite.PARTS), "measure these only; other rows of the file stay, with a commit of their own"
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help=those)
    parser.add_argument("--seconds", type=float, default=Plan().seconds, help="for timed rounds, in all")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch (default: its own choice)")
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)  # before the first tensor operation: later threads inherit it
    if options.threads:
        torch.set_num_threads(options.threads)
    start = time.perf_counter()
    results = measure(options.parts, Plan(seconds=options.seconds))
    results["seconds"] = round(time.perf_counter() - start, 1)
    results["rows"] = merged(results["rows"], options.out, options.parts)
    record.write(options.out, results)
    report = tables.full(results)
    record.write_text(options.out.with_suffix(".md"), report)
    print(report)
    print(f"{options.out}: {len(results['rows'])} rows in {results['seconds']:.0f} s")
    draw(results, options.out.parent)
    return 0


def measure(parts: Sequence[str], plan: Plan) -> dict[str, Any]:
    """All rows of the parts, each with what is needed to reproduce it."""
    facts = environment()
    machine = cost.probe()
    rates = {"gemm_gflops": machine.flops / 1e9, "copy_gbs": machine.bandwidth / 1e9}
    rows: list[dict[str, Any]] = []
    with workers(suite.needed(parts)) as running:
        for part in parts:
            for row in suite.PARTS[part](machine, plan, running):
                rows.append({**row, **facts, **rates})
                print(f"{part}: {line(row)}", file=sys.stderr)
    return {"environment": facts, "machine": asdict(machine), "rows": rows}


def merged(rows: list[dict[str, Any]], file: Path, parts: Sequence[str]) -> list[dict[str, Any]]:
    """These rows, and those of other parts that are in the file, in the order of the parts."""
    kept = [] if set(parts) == set(suite.PARTS) or not file.exists() else record.read(file)["rows"]
    order = list(suite.PARTS)
    found = [*rows, *(row for row in kept if row["part"] in order and row["part"] not in parts)]
    return sorted(found, key=lambda row: order.index(row["part"]))


def line(row: dict[str, Any]) -> str:
    """A row in one line, to show that something happens."""
    what = row.get("operation") or f"{row['network']}, batch {row['batch']}, {100 * row['locked']:.0f} % locked"
    at = "".join(f", {name} {row[name]:g}" for name in ("scale", "tasks") if isinstance(row.get(name), (int, float)))
    if "ms" not in row:
        return f"{what}, {row['variant']}: {mebibytes(row['state_bytes'])} and {mebibytes(row['step_bytes'])} in a step"
    return f"{what}{at}, {row['variant']}: {row['ms']['p50']:.2f} ms, {row['rounds']} rounds"


def draw(results: dict[str, Any], folder: Path) -> None:
    """The pictures, where matplotlib is installed."""
    try:
        from benchmarks import pictures
    except ImportError:
        print("no pictures: they need matplotlib, pip install 'hat-kernels[plot]'", file=sys.stderr)
        return
    for path in pictures.draw(results, folder):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
