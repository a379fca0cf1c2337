"""The experiments in docs/measurements.md: run them, store their figures, draw the picture, write the table.

    python -m benchmarks.experiments digits split-mnist      # run these (without names: all)
    python -m benchmarks.experiments --write docs/measurements.md  # write the table of the stored figures, and draw
    python -m benchmarks.experiments --check docs/measurements.md  # fail if the page has another table

An experiment is a command line of `hat train`. Its figures are the results in the run directory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from benchmarks import markdown
from benchmarks.facts import commit, cpu_model
from benchmarks.markdown import inserted
from hat import checkpoint
from hat.cli import main as hat_main
from hat.cli.options import make_spec
from hat.cli.parser import make_parser
from hat.cli.spec import NetworkSpec

RESULTS = Path(__file__).parent / "results"
FIGURES = RESULTS / "experiments.json"
PICTURE = RESULTS / "forgetting.png"
MARKER = "experiments"

# Put before the options of every experiment that names no optimizer; the options of the experiment win. With momentum,
# the experiments need fewer epochs than with plain SGD.
RECIPE = "--momentum 0.9 --lr 0.02"
EXPERIMENTS = {
    "digits": "--stream permuted --dataset digits --tasks 5 --hidden 800 800 --epochs 16 --lr 0.05 --dropout 0.2 "
    "--reference alone sequential",
    "split-mnist": "--stream split --dataset mnist --classes-per-task 5 --epochs 12 --lr-patience 2",
    "permuted-mnist": "--stream permuted --dataset mnist --tasks 10 --epochs 4",
    "split-cifar10": "--stream split --dataset cifar10 --classes-per-task 2 --network alexnet --epochs 5 "
    "--reference sequential",
    "split-cifar10-resnet18": "--stream split --dataset cifar10 --classes-per-task 2 --tasks 3 --limit 2500 "
    "--network resnet18 --stem image --epochs 4 --lr 0.05 --reference sequential",
    "split-fashion-mnist-vit": "--stream split --dataset fashion-mnist --classes-per-task 3 --tasks 3 --limit 2000 "
    "--network vit --patch 7 --width 96 --depth 4 --epochs 3 --optimizer adamw --lr 0.001 --reference sequential",
}


def run(name: str) -> dict[str, Any]:
    """Run one experiment in `runs/NAME`. Return its figures with all facts that are needed to run it again."""
    folder = Path("runs") / name
    recipe = "" if "--optimizer" in EXPERIMENTS[name] else RECIPE
    arguments = f"{recipe} {EXPERIMENTS[name]}".split()
    status = hat_main(["train", *arguments, "--run-dir", str(folder), "--overwrite"])
    if status:
        raise SystemExit(status)
    return {
        "command": f"hat train {' '.join(arguments)}",
        **json.loads((folder / "result.json").read_text()),
        "commit": commit(),
        "torch": torch.__version__,
        "processor": cpu_model(),
        "threads": torch.get_num_threads(),
    }


def table(figures: dict[str, Any]) -> str:
    """The Markdown table of the stored figures."""
    head = ("stream", "network", "tasks", "training images per class", "average accuracy")
    head += ("same network without HAT", "largest drift of any old logit")
    rows = []
    for name, row in figures.items():
        without = row["references"].get("sequential")
        plain = "not run" if without is None else f"{sum(without) / len(without):.2%}"
        spec = make_spec(make_parser().parse_args(row["command"].split()[1:]))
        images = "all" if spec.stream.limit is None else f"{spec.stream.limit:,}"
        measured = (f"{row['average_accuracy']:.2%}", plain, f"{row['largest_drift']:g}")
        rows.append((name, _label(spec.network), str(len(row["now"])), images, *measured))
    lines = [markdown.table(head, rows)]
    if any("jpeg" in task for row in figures.values() for task in row["tasks"]):
        lines += ["", "CIFAR-10 is the JPEG re-encoded copy (quality 75), which is lossy."]
    lines += ["", "Commands:", "", *(f"- `{row['command']}`" for row in figures.values())]
    machines = sorted(
        {f"{row['processor']}, {row['threads']} threads, torch {row['torch']}" for row in figures.values()}
    )
    return "\n".join([*lines, "", f"Measured on: {'; '.join(machines)}."])


def draw(figures: dict[str, Any]) -> None:
    """Draw the accuracy on every task after the last task, with HAT and without, one panel per stream.

    The first panel is the stream on which the network without HAT forgets most.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {name: row for name, row in figures.items() if "sequential" in row["references"]}
    if not shown:
        return
    figure = Figure(figsize=(3.6 * len(shown), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (name, row) in zip(panels, sorted(shown.items(), key=lambda item: -_lost(item[1])), strict=True):
        tasks = range(1, len(row["now"]) + 1)
        with_hat, without = ([100 * a for a in values] for values in (row["now"], row["references"]["sequential"]))
        axes.bar([task - 0.2 for task in tasks], with_hat, 0.4, label="with HAT", color="#0072b2")
        axes.bar([task + 0.2 for task in tasks], without, 0.4, label="without HAT", color="#c9c9c9")
        axes.set(title=name, xlabel="task, in the order learned", xticks=list(tasks), ylim=(0, 100))
        guessing = 100 * sum(row["random"]) / len(row["random"])
        axes.axhline(guessing, color="black", linewidth=0.8, linestyle=":", label="guessing")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy after the last task (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("One network learns one task after another", fontsize=11)
    with checkpoint.replacing(PICTURE) as file:
        figure.savefig(file, format="png", dpi=150)


def _lost(row: dict[str, Any]) -> float:
    """The accuracy with HAT minus the accuracy without HAT after the last task, averaged over the tasks."""
    without = row["references"]["sequential"]
    return sum(row["now"]) / len(row["now"]) - sum(without) / len(without)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description="Streams of tasks, measured.")
    return command_line(argv, parser, EXPERIMENTS, FIGURES, MARKER, run=run, table=table, draw=draw)


def command_line(
    argv: list[str] | None,
    parser: argparse.ArgumentParser,
    runnable: Collection[str],
    file: Path,
    marker: str,
    *,
    run: Callable[[str], Any],
    table: Callable[[dict[str, Any]], str],
    draw: Callable[[dict[str, Any]], None],
) -> int:
    """The command line of experiments: run some and store their figures, or write their table to a page, or check it.

    Args:
        argv: the arguments; None: those of the process.
        parser: a parser without arguments.
        runnable: the names of all experiments, in the order of the table.
        file: the file of the stored figures.
        marker: the name of the marks around the table in the page, see `benchmarks.markdown.inserted`.
        run: runs the experiment of a name and returns its figures.
        table: makes the table of the figures of all experiments.
        draw: draws the picture of the figures of all experiments.

    Returns:
        The exit status: 1 if `--check` finds another table in the page, otherwise 0.
    """
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(runnable)}; default: all")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table into this file, draw; run nothing")
    parser.add_argument("--check", type=Path, metavar="FILE", help="check the table in this file; run nothing")
    arguments = parser.parse_args(argv)
    figures = json.loads(file.read_text()) if file.exists() else {}
    if arguments.write or arguments.check:
        page = arguments.write or arguments.check
        text = page.read_text()
        changed = inserted(text, marker, table(figures), str(page))
        if arguments.check:
            return int(text != changed)
        page.write_text(changed)
        draw(figures)
        return 0
    unknown = set(arguments.names) - set(runnable)
    if unknown:
        parser.error(f"expected names of {', '.join(runnable)}, got {', '.join(sorted(unknown))}")
    torch.set_flush_denormal(True)
    file.parent.mkdir(exist_ok=True)
    for name in arguments.names or runnable:
        figures[name] = run(name)
        kept = {stored: figures[stored] for stored in runnable if stored in figures}
        with checkpoint.replacing(file) as out:
            out.write((json.dumps(kept, indent=1) + "\n").encode())
        draw(kept)
    return 0


def _label(network: NetworkSpec) -> str:
    """The name of a network, and the sizes that were given."""
    given = {name: getattr(network, name) for name in ("hidden", "width", "depth", "heads", "patch", "stem")}
    sizes = {n: " ".join(map(str, v)) if isinstance(v, tuple) else str(v) for n, v in given.items() if v is not None}
    return ", ".join([network.network, *(f"{name} {size}" for name, size in sizes.items())])


if __name__ == "__main__":
    sys.exit(main())
