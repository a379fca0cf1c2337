"""`python -m benchmarks.gpu`: run the tests on a GPU, then every GPU benchmark, in under 8 minutes. Installs nothing.

Writes `<gpu>.json`, `<gpu>.md` and `<gpu>-bandwidth.png` to the folder `--out`. The table of the fastest kernels of
`hat_kernels.gated_linear` goes to `measured/<gpu>.json` in this folder; without `--out`, it goes to the file that the
package reads. Without a GPU the command prints an error and exits with status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

CHOOSING = 0.3  # share of the time to find the fastest kernel of every matmul; later measurements use these kernels


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="folder of the results (default: benchmarks/results)")
    parser.add_argument("--seconds", type=float, default=420.0, help="time for tests and benchmarks together")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds per row")
    parser.add_argument("--no-tests", action="store_true", help="run benchmarks only")
    parser.add_argument("--dry-run", action="store_true", help="run everything on the CPU, tiny and interpreted")
    options = parser.parse_args(arguments)
    if options.dry_run:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before the import of hat_kernels
    elif missing := _missing():
        print(missing, file=sys.stderr)
        return 2
    return _run(options)


def _missing() -> str:
    """The reason why there is no GPU to measure, in one line; empty if there is a GPU."""
    try:
        import torch
    except ImportError as error:
        return f"no GPU can be used here: {error}"
    return "" if torch.cuda.is_available() else "no GPU here: torch.cuda.is_available() is False"


def _run(options: argparse.Namespace) -> int:
    from benchmarks import record
    from benchmarks.gpu import ceilings, report, run, tests
    from benchmarks.gpu.device import Device, file_name
    from hat_kernels.gated_linear import choice

    start = time.monotonic()
    folder = options.out or record.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    device = Device("cpu" if options.dry_run else "cuda")
    facts = device.facts()
    path = folder / f"{file_name(facts['gpu'])}.json"
    tested = [] if options.no_tests else tests.run(0.45 * options.seconds)
    for row in tested:
        print(f"tests of {row['tests']}: {row['status']}", file=sys.stderr)
        print(row.get("output", ""), file=sys.stderr)
    limits = ceilings.probe(device)
    results: dict[str, Any] = {"environment": facts, "ceilings": asdict(limits), "tests": tested, "rows": []}
    seconds_left = options.seconds - (time.monotonic() - start)
    table = folder / "measured" / path.name if options.out or device.dry else choice.FOLDER / path.name
    choice_rows: list[run.Row] = []
    entries = run.choose(device, CHOOSING * seconds_left, options.rounds, table, choice_rows)
    results["rows"] += [{**row, **facts} for row in choice_rows]
    seconds_left = options.seconds - (time.monotonic() - start)
    with choice.measuring(entries):
        for row in run.measure_all(device, limits, seconds_left, options.rounds):
            run.show(row)
            results["rows"].append({**row, **facts})
            if len(results["rows"]) % 50 == 0:
                record.write(path, results)  # the rows so far are safe if the machine is taken away
    results["seconds"] = round(time.monotonic() - start, 1)
    record.write(path, results)
    text = report.report(results)
    record.write_text(path.with_suffix(".md"), text)
    report.draw(results, path.with_name(f"{path.stem}-bandwidth.png"))
    print(text)
    print(f"{path}: {len(results['rows'])} rows in {results['seconds']:.0f} s")
    return int(any(row["status"] != "passed" for row in tested))


if __name__ == "__main__":
    sys.exit(main())
