"""`python -m benchmarks.kernels`: compile every shipped kernel for several GPUs. No GPU is needed.

Writes `kernels.json` and `kernels.md`: registers, spills, width of loads, shared memory, tensor-core instructions.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.facts import commit
from benchmarks.tables import table

HEADER = ["kernel", "target", "registers", "spilled bytes", "load bits", "store bits", "shared bytes", "warps",
          "tensor-core instructions", "float64 instructions"]  # fmt: skip
COLUMNS = ("kernel", "target", "registers", "spill_bytes", "load_bits", "store_bits", "shared_bytes", "warps",
           "tensor_core", "float64")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help="a folder in hat_kernels (default: all)")
    parser.add_argument("--out", type=Path, default=record.FOLDER, help="folder of the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    sys.path.insert(0, os.getcwd())
    from tests.hat_kernels import compiled

    rows = compiled.in_a_process(chosen=options.operations)
    facts = {"triton": importlib.metadata.version("triton"), "commit": commit()}
    record.write(options.out / "kernels.json", {"environment": facts, "rows": rows})
    record.write_text(options.out / "kernels.md", report(facts, rows))
    errors = [row for row in rows if "error" in row]
    for row in errors:
        print(f"{row['kernel']} for {row['target']}: {row['error']}", file=sys.stderr)
    print(f"{options.out / 'kernels.md'}: {len(rows)} rows")
    return int(bool(errors))


def report(facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The Markdown page: one line per kernel and target."""
    lines = [[str(row.get(column, "failed")) for column in COLUMNS] for row in rows]
    return "\n\n".join(
        [
            "# Kernels, compiled ahead of time",
            f"Triton {facts['triton']}, commit {facts['commit'][:9]}. `load bits` and `store bits`: the widest global"
            " load and store of a kernel. `registers`: registers of one thread (AMD: vector registers).",
            table(HEADER, lines),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
