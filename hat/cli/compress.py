"""`hat compress`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from hat import plots
from hat.cli.compression import FIGURES, Compression, Part, picture, render
from hat.cli.options import make_spec, refuse_beside_resume, resume_hint
from hat.cli.report import plots_available
from hat.cli.spec import RunSpec
from hat.cli.specfile import read_spec
from hat.cli.train import NOTHING_SAVED
from hat.training.rundir import RunDir

DEFAULTS: dict[str, Any] = {"lamb": 1.5, "init": "uniform"}
"""What the paper changes for compression."""

_BESIDE_RESUME = ("quiet", "root", "device")
_MIXTURE = "mixture"  # of one dataset, all its classes as they are


def run_compress(arguments: argparse.Namespace) -> None:
    """Learn every dataset alone, with attention and without, and print what is kept of the weights.

    Raises:
        ValueError: wrong options, missing data, or a folder that is taken.
    """
    resume = getattr(arguments, "resume", None)
    arguments.hint = lambda: NOTHING_SAVED if resume is None else resume_hint(arguments, resume)
    spec, folder = _fresh(arguments) if resume is None else _resumed(arguments, resume)
    parts = _parts(spec, folder)
    run = Compression(spec, folder, shown=not arguments.quiet)
    if resume is None:
        arguments.hint = lambda: resume_hint(arguments, folder.path) if run.saved else NOTHING_SAVED
    else:
        run.read_figures()
    for part in parts:
        run.learn(part, resume=resume is not None)
    print(render(run.figures))
    if plots_available():
        file = folder.path / "compression.png"
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
    if not hasattr(arguments, "overwrite"):
        taken = [name for name in names if RunDir(folder.path / name).checkpoint.exists()]
        if taken or (folder.path / FIGURES).exists():
            advice = f"continue it with --resume {folder.path}, replace it with --overwrite"
            raise ValueError(
                f"{folder.path}: expected a folder without a run, got one; {advice}, or name another with --run-dir"
            )
    return spec, folder


def _resumed(arguments: argparse.Namespace, path: Path) -> tuple[RunSpec, RunDir]:
    refuse_beside_resume(arguments, _BESIDE_RESUME)
    folder = RunDir.existing(path, "--resume")
    _refuse_others(folder, "--resume")
    return read_spec(folder, data=getattr(arguments, "root", None), device=getattr(arguments, "device", None)), folder


def _refuse_others(folder: RunDir, option: str) -> None:
    if folder.checkpoint.exists():
        raise ValueError(f"{option}: expected a folder of hat compress, got a run of hat train in {folder.path}")


def _parts(spec: RunSpec, folder: RunDir) -> list[Part]:
    """All data is loaded, and the network tried on it, before anything is learned."""
    found = []
    for name, dataset in zip(_names(spec), spec.stream.datasets, strict=True):
        own = replace(spec, stream=replace(spec.stream, datasets=(dataset,)))
        part = Part(name, own, own.stream.build(), RunDir(folder.path / name))
        own.network.build(part.stream.input_shape)
        found.append(part)
    return found


def _names(spec: RunSpec) -> list[str]:
    names = [Path(dataset).stem for dataset in spec.stream.datasets]
    if len(set(names)) < len(names):
        raise ValueError(f"dataset: expected each once, by different names, got {', '.join(names)}")
    return names
