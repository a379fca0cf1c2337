"""Networks exported for one task: their size, accuracy and speed.

    python -m benchmarks.export                     # train (20 minutes on 2 cores), measure, write results/export.json
    python -m benchmarks.export --parts shares      # networks that use a given share of every layer; trains nothing
    python -m benchmarks.export --write docs/measurements.md  # write the tables of the stored figures
    python -m benchmarks.export --check docs/measurements.md  # fail if the page has other tables

The rival of an exported network is the dense network: the same plain modules with all units.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import hat
from benchmarks import export_tables, record
from benchmarks.exported import DENSE, EXPORTED, SHARES, dense_and_exported, model_of_share
from benchmarks.facts import environment
from benchmarks.markdown import inserted
from benchmarks.measure import Runner, interleave, quantiles
from benchmarks.workload import ALEXNET, MLP, Network, batches
from hat.cli import main as hat_main
from hat.cli.export import compared
from hat.cli.stored import open_run

FIGURES = record.FOLDER / "export.json"
RUNS = Path("runs/export")
PARTS = ("trained", "shares")
TRAINED = {
    "mlp": "--stream split --dataset mnist --classes-per-task 5 --limit 2000 --epochs 4 --momentum 0.9 --lr 0.02",
    "alexnet": "--stream split --dataset cifar10 --classes-per-task 2 --tasks 2 --limit 2000 --network alexnet "
    "--epochs 4 --momentum 0.9 --lr 0.02",
    "resnet18": "--stream split --dataset cifar10 --classes-per-task 2 --tasks 2 --limit 1000 --network resnet18 "
    "--width 32 --stem image --epochs 4 --momentum 0.9 --lr 0.05",
    "vit": "--stream split --dataset fashion-mnist --classes-per-task 3 --tasks 2 --limit 1000 --network vit --patch 7 "
    "--width 96 --depth 4 --epochs 3 --optimizer adamw --lr 0.001",
}
BATCHES = {"trained": (1, 64), "shares": (64, 256)}
BURST = 4e-3  # the least seconds of one timing; a small network runs several times in one timing

Row = dict[str, Any]


def trained(runs: Path, seconds: float, *, commands: dict[str, str] = TRAINED) -> Iterator[Row]:
    """One row per task and batch of every network that `hat train` trains. Runs in the folder `runs` are used again."""
    for name, command in commands.items():
        if not (runs / name / "result.json").exists():
            status = hat_main(["train", *command.split(), "--run-dir", str(runs / name), "--overwrite"])
            if status:
                raise SystemExit(status)
        run = open_run(runs / name)
        for task in range(run.model.tasks):
            networks = dense_and_exported(run.model, task)
            facts = compared(run, networks[EXPORTED], task)
            row = {"part": "trained", "network": name, "command": f"hat train {command}", **facts}
            x = run.stream[task].test[: max(BATCHES["trained"])][0]
            yield from _rows(row, run.model, networks, x, BATCHES["trained"], seconds)


def shares(seconds: float, *, networks: Sequence[Network] = (MLP, ALEXNET)) -> Iterator[Row]:
    """One row per share and batch of the paper's networks. Their one task uses exactly this share of every layer."""
    for network in networks:
        for share in SHARES:
            model = model_of_share(network, share)
            row = {"part": "shares", "network": str(network), "share": share}
            x = batches(network, max(BATCHES["shares"]), 1)[0][0]
            yield from _rows(row, model, dense_and_exported(model, 0), x, BATCHES["shares"], seconds)


def _rows(
    row: Row, model: hat.HATModel, networks: dict[str, nn.Module], x: Tensor, sizes: Sequence[int], seconds: float
) -> Iterator[Row]:
    exported_units: Any = networks[EXPORTED].units
    for batch in sizes:
        yield {
            **row,
            "units": {name: {"kept": exported_units[name], "of": gate.units} for name, gate in model.gates.items()},
            "parameters": {kind: sum(p.numel() for p in network.parameters()) for kind, network in networks.items()},
            "batch": batch,
            "flops": {kind: flops(network, x[:batch]) for kind, network in networks.items()},
            **latencies(networks, x[:batch], seconds),
        }


def flops(network: nn.Module, x: Tensor) -> int:
    """The FLOPs of matmuls and convolutions in one forward pass. The pass records a graph, which the counter needs."""
    with FlopCounterMode(display=False) as counter:
        network(x)
    return int(counter.get_total_flops())


def latencies(networks: dict[str, nn.Module], x: Tensor, seconds: float) -> Row:
    """Milliseconds of a forward pass of every network, and the ratio exported / dense within a round."""
    calls = {name: partial(_answer, network, x) for name, network in networks.items()}
    runners = {name: _runner(call) for name, call in calls.items()}
    timings = interleave(runners, [0.0] * 8, block=2, seconds=seconds, least=5, most=40)
    return {
        "rounds": timings.rounds,
        "ms": {name: quantiles([1e3 * duration for duration in timings.all(name)]) for name in networks},
        "ratio": quantiles(timings.ratios(EXPORTED, DENSE)),
    }


@torch.inference_mode()
def _answer(network: nn.Module, x: Tensor) -> None:
    network(x)


def _runner(call: Callable[[], None]) -> Runner:
    """A runner that returns the mean seconds of as many calls as take `BURST`."""
    call()
    count = max(1, round(BURST / max(_seconds(call, 3), 1e-7)))
    return lambda points: [_seconds(call, count) for _ in points]


def _seconds(call: Callable[[], None], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 if `--check` finds other tables in the page, otherwise 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description="Exported networks, measured.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to measure; other rows stay")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the trained networks (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="about the time per row (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch (default: PyTorch's own choice)")
    parser.add_argument("--out", type=Path, default=FIGURES, help="results file (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables into this file; run nothing")
    parser.add_argument("--check", type=Path, metavar="FILE", help="check the tables in this file; run nothing")
    options = parser.parse_args(argv)
    if options.write or options.check:
        file = options.write or options.check
        page, tables = file.read_text(), export_tables.text(record.read(options.out))
        changed = inserted(page, export_tables.MARKER, tables, str(file))
        if options.write and page != changed:
            record.write_text(file, changed)
        return int(bool(options.check) and page != changed)
    torch.set_flush_denormal(True)  # before the first tensor operation, because only later threads inherit the mode
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = record.read(options.out)["rows"] if options.out.exists() else []
    rows = [row for row in kept if row["part"] not in options.parts]
    facts = environment()
    measure = {"trained": partial(trained, options.runs, options.seconds), "shares": partial(shares, options.seconds)}
    for part in options.parts:
        for row in measure[part]():
            rows.append({**row, **facts})
            print(export_tables.line(row), file=sys.stderr)
    rows.sort(key=lambda row: PARTS.index(row["part"]))
    record.write(options.out, {"environment": facts, "rows": rows})
    print(export_tables.text({"environment": facts, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
