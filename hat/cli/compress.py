"""`hat compress`: learn datasets alone and count the weights that are kept."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from hat import plots
from hat.cli.compression import FIGURES, PICTURE, Compression, DatasetRun, picture, render
from hat.cli.options import make_spec, refuse_beside_resume, resume_hint
from hat.cli.report import plots_available
from hat.cli.spec import RunSpec
from hat.cli.specfile import read_spec
from hat.cli.train import NOTHING_SAVED
from hat.training.rundir import RunDir

DEFAULTS: dict[str, Any] = {"lamb": 1.5, "init": "uniform"}
"""The defaults that the paper changes for compression."""

_BESIDE_RESUME = ("quiet", "root", "device")
_MIXTURE = "mixture"  # a mixture of one dataset is one task with all classes of the dataset


def run_compress(arguments: argparse.Namespace) -> None:
    """Learn every dataset alone, with attention and without, and print how many weights are kept.

    Raises:
        ValueError: an option is wrong, data is missing, or the folder holds a run.
    """
    resume = getattr(arguments, "resume", None)
    arguments.hint = lambda: NOTHING_SAVED if resume is None else resume_hint(arguments, resume)
    spec, folder = _fresh(arguments) if resume is None else _resumed(arguments, resume)
    dataset_runs = _dataset_runs(spec, folder)
    run = Compression(spec, folder, shown=not arguments.quiet)
    if resume is None:
        arguments.hint = lambda: resume_hint(arguments, folder.path) if run.saved else NOTHING_SAVED
    else:
        run.read_figures()
    with folder.owned():
        for dataset_run in dataset_runs:
            run.learn(dataset_run, resume=resume is not None)
        print(render(run.figures))
        if plots_available():
            file = folder.claim(PICTURE)
            plots.save(picture(run.figures), file)
            print(f"picture {file}")


def _fresh(arguments: argparse.Namespace) -> tuple[RunSpec, RunDir]:
    arguments.stream = _MIXTURE
    for name, value in DEFAULTS.items():
        setattr(arguments, name, getattr(arguments, name, value))
    spec = make_spec(arguments)
    names = _names(spec)
    folder = RunDir(getattr(arguments, "run_dir", None) or Path("runs") / "-".join(["compress", *names]))
    _refuse_others(folder, "run_dir")
    folder.check_not_owned()
    if not hasattr(arguments, "overwrite"):
        taken = [name for name in names if RunDir(folder.path / name).checkpoint.exists()]
        if taken or (folder.path / FIGURES).exists():
            advice = f"continue it with --resume {folder.path}, replace it with --overwrite"
            raise ValueError(
                f"{folder.path}: expected a folder without a run, got a run; {advice}, or name another with --run-dir"
            )
    folder.check_names(0, [folder.config.name, FIGURES, PICTURE])
    for name in names:
        RunDir(folder.path / name).check_names(1, [folder.config.name])
    return spec, folder


def _resumed(arguments: argparse.Namespace, path: Path) -> tuple[RunSpec, RunDir]:
    refuse_beside_resume(arguments, _BESIDE_RESUME)
    folder = RunDir.existing(path, "--resume")
    _refuse_others(folder, "--resume")
    folder.check_not_owned()
    return read_spec(folder, data=getattr(arguments, "root", None), device=getattr(arguments, "device", None)), folder


def _refuse_others(folder: RunDir, option: str) -> None:
    if folder.checkpoint.exists():
        raise ValueError(f"{option}: expected a folder of hat compress, got a run of hat train in {folder.path}")


def _dataset_runs(spec: RunSpec, folder: RunDir) -> list[DatasetRun]:
    """The run of every dataset. All data is loaded and all networks are built once, so that errors come first."""
    runs = []
    for name, dataset in zip(_names(spec), spec.stream.datasets, strict=True):
        run_spec = replace(spec, stream=replace(spec.stream, datasets=(dataset,)))
        run = DatasetRun(name, run_spec, run_spec.stream.build(), RunDir(folder.path / name))
        run_spec.network.build(run.stream.input_shape)
        runs.append(run)
    return runs


def _names(spec: RunSpec) -> list[str]:
    names = [Path(dataset).stem for dataset in spec.stream.datasets]
    if len(set(names)) < len(names):
        raise ValueError(f"dataset: expected each once, by different names, got {', '.join(names)}")
    return names
