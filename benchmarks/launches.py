"""`python -m benchmarks.launches`: count the kernels that a step launches on a GPU, and the bytes that they move.

Answers for a batch of many tasks are counted too. No GPU is needed. Writes `launches.json` and `launches.md`.

The bytes of an operation are those of its inputs and outputs, as if no cache held them. Kernels of this library are
counted, but not run. The counts tell how much a step can cost in comparison to the plain step, if memory or launches
limit both. They do not tell how fast a step runs.
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
WARM = 2  # steps before the counted step; they create the states of the optimizer and the tables of pointers


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before the import of hat_kernels
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
    """Count the launches and bytes of a step: one row per variant.

    A converted network has only the variants plain and ours, and no floor.
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
            group["foreach"] = True  # torch.optim chooses this on a GPU
        x, y = batches(network, batch, 1)[0]
        tapes = [Tape(keep=False, run=False) for _ in range(WARM + 1)]
        for tape in tapes:
            with tape.recording():
                step(x, y, 0.5)
    return tapes[-1]


def answers(network: Any, batch: int, tasks: int = 32) -> list[dict[str, Any]]:
    """Count the launches and bytes of answers for a batch of many tasks: one row per way to answer."""
    from benchmarks.serving import MIXED, calls, served
    from tests.hat.tape import Tape, as_on_a_gpu

    model, rows = served(network, tasks), []
    ways = calls(model, network, batch)
    ways[MIXED]()  # the first mixed batch checks whether one pass gives the right answer; this check is not counted
    for name, call in ways.items():
        tape = Tape(keep=False, run=False)
        with as_on_a_gpu("triton", matmuls=False), tape.recording():
            call()
        counts = {"launches": tape.launches.total(), "waits": len(tape.waits), "bytes": tape.bytes.total()}
        rows.append({"network": str(network), "batch": batch, "tasks": tasks, "variant": name, **counts})
    return rows


def report(rows: Sequence[dict[str, Any]], commit: str) -> str:
    """The Markdown page: one line per network, locked share and variant, and a table of the answers."""
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
            f"Counted for a step on a GPU, but without a GPU: batch {BATCH}, float32, commit {commit[:9]}. The bytes of"
            " an operation are those of its inputs and outputs, as if no cache held them. `waits`: how often the host"
            " waits for the device. `floor`: the bytes that no step can avoid to move, see `benchmarks/cost.py`; there"
            " is a floor for the paper's networks only. `our matmuls`: with the kernels of `hat_kernels.gated_linear`,"
            " one kernel per pass.",
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
    text = "To answer for a batch. `one task`: all samples belong to one task. `mixed`: every sample has its own task"
    text += " id, in one call. `task by task`: one call per task, on the samples of the task."
    return f"{text}\n\n{table(['answers for', 'variant', 'launches', 'MB moved'], lines)}" if lines else ""


if __name__ == "__main__":
    sys.exit(main())
