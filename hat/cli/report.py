"""`hat report`, and the pictures that `train` draws at its end."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from hat import plots
from hat.cli.summary import read_references, render, summarise
from hat.training.history import History
from hat.training.rundir import RunDir
from hat.training.saved import reading


def run_report(arguments: argparse.Namespace) -> None:
    """Print the table of a run and draw its pictures.

    Raises:
        ValueError: no run there, or no finished task.
        ImportError: matplotlib is missing.
    """
    folder = RunDir.existing(arguments.run_dir)
    saved = folder.load()
    history = History(**saved["history"])
    if not history.accuracy:
        raise ValueError(f"{folder.path}: expected a run with a finished task, got none yet")
    try:
        references, guesses = read_references(folder, len(history.names))
    except ValueError as error:
        print(f"hat report: warning: {error}; shown without references", file=sys.stderr)
        references, guesses = {}, []
    print(render(summarise(history, references, guesses)))
    with reading(folder.checkpoint):
        draw(folder, history, saved["model"])
    print(f"plots               {folder.plots}")


def plots_available() -> bool:
    """matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(folder: RunDir, history: History, model_state: Mapping[str, Tensor]) -> None:
    """Accuracy matrix, accuracy over time, used capacity and mask overlap, as PNG in the run's folder plots."""
    folder.plots.mkdir(exist_ok=True)
    used = torch.tensor([list(row.values()) for row in history.capacity])
    gates = [name.removesuffix(".gate") for name in history.capacity[-1]]
    kept, names = history.kept, [history.names[task] for task in history.kept]
    matrix = history.matrix[kept][:, kept]
    masks = [value.float()[kept] for name, value in model_state.items() if name.endswith(".masks")]
    figures = {
        "accuracy_matrix": plots.accuracy_matrix(matrix, names),
        "accuracy_over_time": plots.accuracy_over_time(matrix, names),
        "capacity": plots.capacity(used, gates),
        "overlap": plots.overlap(plots.overlap_matrix(masks), names),
    }
    for name, figure in figures.items():
        plots.save(figure, folder.plots / f"{name}.png")
