"""`python -m tests.zoo`: convert all networks of `architectures.py`; write docs/zoo.md and benchmarks/results/zoo.json.

`python -m tests.zoo NAME ...` converts the named networks only, prints their rows, and writes no file.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import sys
from pathlib import Path

import torch

from benchmarks import record
from tests.zoo.architectures import architectures
from tests.zoo.environment import prepare
from tests.zoo.examine import examine
from tests.zoo.table import document

ROOT = Path(__file__).resolve().parents[2]
RESULTS, TABLE = ROOT / "benchmarks" / "results" / "zoo.json", ROOT / "docs" / "zoo.md"


def main(names: list[str]) -> int:
    """The command line. Returns 1 if a network was neither converted nor refused, otherwise 0."""
    if not prepare():
        raise SystemExit("timm, transformers: expected to be installed; run `make zoo`")
    torch.set_flush_denormal(True)
    rows = []
    for architecture in architectures():
        if not names or architecture.name in names:
            rows.append(examine(architecture))
            print(json.dumps(rows[-1]), flush=True)
            gc.collect()
    if not names:
        versions = {name: importlib.metadata.version(name) for name in ("torch", "timm", "transformers")}
        TABLE.parent.mkdir(exist_ok=True)
        record.write(RESULTS, {"versions": versions, "rows": rows})
        record.write_text(TABLE, document(record.read(RESULTS)))
    return int(any(row["outcome"] == "error" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
