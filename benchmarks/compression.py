"""The compression runs in docs/measurements.md: run them, store their figures, draw the picture, write the table.

    python -m benchmarks.compression alexnet mlp             # run these (without names: all)
    python -m benchmarks.compression --write docs/measurements.md  # write the table of the stored figures, and draw
    python -m benchmarks.compression --check docs/measurements.md  # fail if the page has another table

A run is a command line of `hat compress`. Its figures are the results in the run's folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import markdown
from benchmarks.experiments import RESULTS, command_line
from benchmarks.facts import commit, cpu_model
from hat import plots
from hat.cli import main as hat_main
from hat.cli.compression import picture

FIGURES = RESULTS / "compression.json"
PICTURE = RESULTS / "compression.png"
MARKER = "compression"
PAPER = """The paper keeps 1 to 21 % of the weights on 8 datasets, with the accuracy of the network without attention
(Serrà et al. 2018). It uses plain SGD, all training images and up to 200 epochs. These runs are shorter, so that a CPU
can do them, and learn from few images, with attention and without."""

# With momentum, the runs need fewer epochs than with plain SGD.
RUNS = {
    "alexnet": "--dataset mnist fashion-mnist --network alexnet --limit 500 --batch-size 32 --epochs 24 --lr 0.03 "
    "--momentum 0.9",
    "mlp": "--dataset mnist fashion-mnist --network mlp --limit 1000 --epochs 24 --lr 0.05 --momentum 0.9",
}


def run(name: str) -> dict[str, Any]:
    """Run one command in `runs/compress-NAME`. Return its figures with all facts that are needed to run it again."""
    folder = Path("runs") / f"compress-{name}"
    status = hat_main(["compress", *RUNS[name].split(), "--run-dir", str(folder), "--overwrite"])
    if status:
        raise SystemExit(status)
    return {
        "command": f"hat compress {RUNS[name]}",
        "datasets": json.loads((folder / "compression.json").read_text())["datasets"],
        "commit": commit(),
        "torch": torch.__version__,
        "processor": cpu_model(),
        "threads": torch.get_num_threads(),
    }


def table(figures: dict[str, Any]) -> str:
    """The Markdown table of the stored figures."""
    header = ("network", "dataset", "epochs", "weights", "kept", "accuracy", "same network without HAT")
    lines = [
        (
            name,
            dataset,
            str(len(run["epochs"]["kept"])),
            f"{run['weights']:,}",
            f"{run['kept'] / run['weights']:.1%}",
            f"{run['accuracy']:.2%}",
            f"{run['without']['accuracy']:.2%}",
        )
        for name, row in figures.items()
        for dataset, run in row["datasets"].items()
    ]
    machines = sorted(
        {f"{row['processor']}, {row['threads']} threads, torch {row['torch']}" for row in figures.values()}
    )
    commands = [f"- `{row['command']}`" for row in figures.values()]
    text = [markdown.table(header, lines), "", PAPER, "", "Commands:", "", *commands]
    return "\n".join([*text, "", f"Measured on: {'; '.join(machines)}."])


def draw(figures: dict[str, Any]) -> None:
    """Draw accuracy and weights kept over the epochs of all runs. The legends show the numbers of the table."""
    runs = {f"{name}, {dataset}": part for name, row in figures.items() for dataset, part in row["datasets"].items()}
    plots.save(picture(runs), PICTURE)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description="Compression runs.")
    return command_line(argv, parser, RUNS, FIGURES, MARKER, run=run, table=table, draw=draw)


if __name__ == "__main__":
    sys.exit(main())
