"""`python -m benchmarks.gpu`: the tests on a GPU, then every GPU benchmark, in under 8 minutes and without installing.

Writes `<gpu>.json`, `<gpu>.md` and `<gpu>-bandwidth.png` to `--out`. Without a GPU it says so and exits with 2. Which
kernel of `hat_kernels.gated_linear` is the fastest goes to `measured/<gpu>.json` in `--out`; without that, to where the
package reads it.
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

CHOOSING = 0.3  # of the time: to find the fastest kernel of every matmul, before all is measured with those


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="folder of the results (default: benchmarks/results)")
    parser.add_argument("--seconds", type=float, default=420.0, help="for all of it")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds a row")
    parser.add_argument("--no-tests", action="store_true", help="benchmarks only")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, interpreted and tiny: does all of it run?")
    options = parser.parse_args(arguments)
    if options.dry_run:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before hat_kernels asks
    elif missing := _missing():
        print(missing, file=sys.stderr)
        return 2
    return _run(options)


def _missing() -> str:
    """Why nothing can be measured here, in one line; empty if it can."""
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
    found = ceilings.probe(device)
    results: dict[str, Any] = {"environment": facts, "ceilings": asdict(found), "tests": tested, "rows": []}
    left = options.seconds - (time.monotonic() - start)
    table = folder / "measured" / path.name if options.out or device.dry else choice.FOLDER / path.name
    chosen: list[run.Row] = []
    entries = run.choose(device, CHOOSING * left, options.rounds, table, chosen)
    results["rows"] += [{**row, **facts} for row in chosen]
    left = options.seconds - (time.monotonic() - start)
    with choice.measuring(entries):
        for row in run.measure_all(device, found, left, options.rounds):
            run.show(row)
            results["rows"].append({**row, **facts})
            if len(results["rows"]) % 50 == 0:
                record.write(path, results)  # what there is, should the machine be taken away
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
