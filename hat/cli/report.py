"""`hat report`: tables and pictures of a run. `hat train` draws its pictures here, too."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hat import plots
from hat.cli.specfile import read_spec
from hat.cli.summary import read_references, render, summarise
from hat.life.model import HATModel
from hat.plots.report import report
from hat.text import axis_name
from hat.training.history import History
from hat.training.identity import layers_of
from hat.training.rundir import RunDir
from hat.training.saved import reading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = tuple(f"plots/{name}.png" for name in ("accuracy_matrix", "accuracy_over_time", "capacity", "overlap"))
"""The pictures of `hat train`."""


def run_report(arguments: argparse.Namespace) -> None:
    """Print the tables of a run and draw its pictures.

    Raises:
        ValueError: the folder holds no run, a file is damaged, or no task is finished.
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
    model = _model(folder, saved) if folder.config.exists() else None  # a Trainer without description writes no config
    print(render(summarise(history, references, guesses)))
    if model is None:
        print("hat report: warning: no config of the network, so its units are not shown", file=sys.stderr)
        with reading(folder.checkpoint):
            draw(folder, history, saved["model"], references)
    else:
        unit_report = report(model, names=history.names)
        print(f"\n{unit_report}\n")
        _save(folder, {**_accuracy_plots(history, references), **unit_report.plots()})
    print(f"plots               {folder.plots}")


def _model(folder: RunDir, saved: dict[str, Any]) -> HATModel:
    """The model of a run, built without its data."""
    spec = read_spec(folder, device="cpu")
    shapes = {tuple(task["input_shape"]) for task in saved["identity"]["tasks"]}
    if len(shapes) != 1:
        raise ValueError(f"{folder.checkpoint}: expected inputs of one shape, got {sorted(shapes)}")
    model = spec.model(shapes.pop())
    if layers_of(model) != saved["identity"]["network"]:
        raise ValueError(f"{folder.checkpoint}: expected the network of config.json, got a network of other layers")
    with reading(folder.checkpoint):
        model.load_state_dict(saved["model"])
    return model


def plots_available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(
    folder: RunDir, history: History, model_state: Mapping[str, Tensor], references: Mapping[str, list[float]]
) -> None:
    """Draw accuracy matrix, accuracy over time, used capacity and overlap of masks as PNG files in the folder plots."""
    used = torch.tensor([list(row.values()) for row in history.capacity])
    gates = [axis_name(name) for name in history.capacity[-1]]
    kept, names = history.kept, [history.names[task] for task in history.kept]
    masks = [value.float()[kept] for name, value in model_state.items() if name.endswith(".masks")]
    figures = {
        "capacity": plots.capacity(used, gates),
        "overlap": plots.overlap(plots.overlap_matrix(masks), names),
    }
    _save(folder, {**_accuracy_plots(history, references), **figures})


def _accuracy_plots(history: History, references: Mapping[str, list[float]]) -> dict[str, Figure]:
    kept, names = history.kept, [history.names[task] for task in history.kept]
    matrix = history.matrix[kept][:, kept]
    without = {kind: [column[task] for task in kept] for kind, column in references.items()}
    return {
        "accuracy_matrix": plots.accuracy_matrix(matrix, names),
        "accuracy_over_time": plots.accuracy_over_time(matrix, names, references=without),
    }


def _save(folder: RunDir, figures: Mapping[str, Figure]) -> None:
    for figure, file in [(figure, folder.claim(f"plots/{name}.png")) for name, figure in figures.items()]:
        plots.save(figure, file)
