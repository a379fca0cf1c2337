"""`python -m benchmarks`: measure all parts on this CPU and write `benchmarks/results/cpu.*`.

Takes about 12 minutes on 2 idle cores. `--parts` measures some parts only.
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
    parts, parts_help = list(suite.PARTS), "measure these parts only; rows of other parts stay, with their old commit"
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help=parts_help)
    parser.add_argument("--seconds", type=float, default=Plan().seconds, help="time for all timed rounds together")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch (default: PyTorch's own choice)")
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)  # before the first tensor operation, because only later threads inherit the mode
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
    """Measure the parts. Every row holds all facts that are needed to measure the row again."""
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
    """The new rows, and the rows of all other parts from the file, in the order of the parts."""
    kept = [] if set(parts) == set(suite.PARTS) or not file.exists() else record.read(file)["rows"]
    order = list(suite.PARTS)
    all_rows = [*rows, *(row for row in kept if row["part"] in order and row["part"] not in parts)]
    return sorted(all_rows, key=lambda row: order.index(row["part"]))


def line(row: dict[str, Any]) -> str:
    """A row as one line of text, to show progress."""
    title = row.get("operation") or f"{row['network']}, batch {row['batch']}, {100 * row['locked']:.0f} % locked"
    if "ms" not in row:
        kept, step = mebibytes(row["state_bytes"]), mebibytes(row["step_bytes"])
        return f"{title}, {row['variant']}: {kept} kept between steps, {step} more in a step"
    options = [f", {key} {row[key]:g}" for key in ("scale", "tasks") if isinstance(row.get(key), (int, float))]
    return f"{title}{''.join(options)}, {row['variant']}: {row['ms']['p50']:.2f} ms, {row['rounds']} rounds"


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draw the pictures if matplotlib is installed."""
    try:
        from benchmarks import pictures
    except ImportError:
        print("no pictures: matplotlib is missing; pip install 'hat-kernels[plot]'", file=sys.stderr)
        return
    for path in pictures.draw(results, folder):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
