"""`python -m benchmarks.launches`: how many kernels a step launches on a GPU and the bytes they move, without a GPU.

Answers for a batch of many tasks are counted too.

Writes `launches.json` and `launches.md`. Every operation counts the tensors that it takes and gives, as if no cache
held any of them; kernels of this library are counted, not run. So it says what a step that is bound by memory or by
launches can cost beside the plain one, and nothing of how fast either runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

LOCKED = (0.0, 0.5, 0.9)
BATCH = 64
WARM = 2  # steps before the one that is counted: states and tables are there then


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before hat_kernels asks
    sys.path.insert(0, os.getcwd())
    from benchmarks import record
    from benchmarks.converted import SMALL_RESNET18, SMALL_VIT
    from benchmarks.facts import commit
    from benchmarks.workload import ALEXNET, MLP

    parser = argparse.ArgumentParser(prog="python -m benchmarks.launches", description=__doc__)
    parser.add_argument("--out", type=Path, default=record.FOLDER, help="folder of the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    networks = (MLP, ALEXNET, SMALL_RESNET18, SMALL_VIT)
    rows = [row for network in networks for locked in LOCKED for row in count(network, locked, BATCH)]
    rows += [row for network in networks[:2] for row in answers(network, BATCH)]
    record.write(options.out / "launches.json", {"environment": {"commit": commit()}, "rows": rows})
    record.write_text(options.out / "launches.md", report(rows, commit()))
    print(f"{options.out / 'launches.md'}: {len(rows)} rows")
    return 0


def count(network: Any, locked: float, batch: int) -> list[dict[str, Any]]:
    """One row a variant: the launches of a step, and its bytes beside those of the plain step.

    Of a network that is converted there are two variants and no floor.
    """
    from benchmarks import cost
    from benchmarks.converted import ConvertedNetwork
    from benchmarks.variants import IN_MATMUL, OURS, PLAIN, TEXTBOOK

    converted = isinstance(network, ConvertedNetwork)
    variants = [(PLAIN, False), (OURS, False)]
    if not converted:
        variants = [(PLAIN, False), (TEXTBOOK, False), (OURS, False), (OURS, True), (IN_MATMUL, True)]
    rows: list[dict[str, Any]] = []
    for name, matmuls in variants:
        tape = _counted(name, matmuls, network, locked, batch)
        tables = tape.launches.pop("copy of a table", 0)
        rows.append(
            {
                "network": str(network),
                "batch": batch,
                "locked": locked,
                "variant": f"{name}, our matmuls" if matmuls else name,
                "launches": tape.launches.total(),
                "copies_of_tables": tables,
                "waits": len(tape.waits),
                "bytes": tape.bytes.total(),
                "floor_bytes": None if converted else cost.count(network, batch, locked)["bytes"],
                "by_kernel": dict(tape.bytes.most_common()),
            }
        )
    for row in rows:
        row["ratio_to_plain"] = row["bytes"] / rows[0]["bytes"]
    return rows


def _counted(name: str, matmuls: bool, network: Any, locked: float, batch: int) -> Any:
    from benchmarks.bench import Case, build
    from benchmarks.workload import batches
    from tests.hat.tape import Tape, as_on_a_gpu, native_dropout

    with as_on_a_gpu("triton", matmuls=matmuls), mock.patch("torch.nn.functional.dropout", native_dropout):
        step = build(name, Case(network=network, batch=batch, locked=locked))
        for group in step.optimizer.param_groups:
            group["foreach"] = True  # as torch.optim chooses on a GPU
        x, y = batches(network, batch, 1)[0]
        tapes = [Tape(keep=False, run=False) for _ in range(WARM + 1)]
        for tape in tapes:
            with tape.recording():
                step(x, y, 0.5)
    return tapes[-1]


def answers(network: Any, batch: int, tasks: int = 32) -> list[dict[str, Any]]:
    """One row a way to answer for a batch behind many tasks."""
    from benchmarks.serving import MIXED, calls, served
    from tests.hat.tape import Tape, as_on_a_gpu

    model, rows = served(network, tasks), []
    ways = calls(model, network, batch)
    ways[MIXED]()  # tries whether one pass will do
    for name, call in ways.items():
        tape = Tape(keep=False, run=False)
        with as_on_a_gpu("triton", matmuls=False), tape.recording():
            call()
        found = {"launches": tape.launches.total(), "waits": len(tape.waits), "bytes": tape.bytes.total()}
        rows.append({"network": str(network), "batch": batch, "tasks": tasks, "variant": name, **found})
    return rows


def report(rows: Sequence[dict[str, Any]], commit: str) -> str:
    """One line a network, locked share and variant."""
    from benchmarks.markdown import NONE, table

    lines = []
    for row in (row for row in rows if "tasks" not in row):
        lines.append(
            [
                row["network"],
                f"{100 * row['locked']:.0f} %",
                row["variant"],
                str(row["launches"]),
                str(row["waits"]),
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['ratio_to_plain']:.2f}",
                NONE if row["floor_bytes"] is None else f"{row['floor_bytes'] / 1e6:.1f}",
            ]
        )
    header = ["network", "locked", "variant", "launches", "waits", "MB moved", "/ plain", "floor, MB"]
    return "\n\n".join(
        [
            "# What a step launches and moves",
            f"Counted for a GPU without one, batch {BATCH}, float32, commit {commit[:9]}: every operation with the"
            " tensors that it takes and gives, as if no cache held them. `waits`: how often the host waits for the"
            " device. The floor is what cannot be avoided, see `benchmarks/cost.py`; it is known for the paper's."
            " `our matmuls`: the kernels of `hat_kernels.gated_linear`, one a pass.",
            table(header, lines),
            _answers([row for row in rows if "tasks" in row]),
            "",
        ]
    )


def _answers(rows: Sequence[dict[str, Any]]) -> str:
    from benchmarks.markdown import table

    lines = [
        [
            f"{row['network']}, batch {row['batch']}, {row['tasks']} tasks",
            row["variant"],
            str(row["launches"]),
            f"{row['bytes'] / 1e6:.1f}",
        ]
        for row in rows
    ]
    text = "To answer for a batch: all of one task, a task a sample, or every task by itself."
    return f"{text}\n\n{table(['answers for', 'variant', 'launches', 'MB moved'], lines)}" if lines else ""


if __name__ == "__main__":
    sys.exit(main())
