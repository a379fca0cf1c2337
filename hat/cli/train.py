"""`hat train`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from hat.cli.report import draw, plots_available
from hat.cli.spec import RunSpec
from hat.cli.summary import render, summarise
from hat.training import PlainModel, Trainer, reference_accuracy
from hat.training.rundir import RunDir


def run_train(arguments: argparse.Namespace) -> None:
    """Learn a stream of tasks and print what became of it.

    Raises:
        ValueError: wrong options, missing data, or a run directory that is taken.
    """
    spec, folder = _resumed(arguments) if arguments.resume else _fresh(arguments)
    arguments.resume_hint = f"all finished epochs are saved; continue with: hat train --resume {folder.path}"
    stream = spec.stream.build()
    model = spec.model(stream.input_shape)
    if not arguments.resume:
        folder.clear()
        folder.write_config(spec.to_dict())
    shown = not arguments.quiet
    if shown:
        print(
            f"{stream.name}: {len(stream)} tasks of {stream.input_shape} inputs; run directory {folder.path}",
            flush=True,
        )
    trainer = Trainer(model, stream, spec.training, run_dir=folder.path, progress=shown)
    result = trainer.run(resume=bool(arguments.resume))
    references = {}
    for kind in arguments.reference:
        if shown:
            print(f"reference without HAT: {kind}", flush=True)
        make_model = partial(spec.model, stream.input_shape, PlainModel)
        references[kind] = reference_accuracy(kind, make_model, stream, spec.training, progress=shown)
    summary = summarise(result.history, references, [1 / len(task.classes) for task in stream])
    folder.write_result({**summary, "seconds": result.seconds})
    print()
    print(render(summary))
    print(f"learned in          {result.seconds:7.1f} s on {spec.training.torch_device()}")
    if plots_available():
        draw(folder, result.history, model.state_dict())
        print(f"plots               {folder.plots}")


def _fresh(arguments: argparse.Namespace) -> tuple[RunSpec, RunDir]:
    spec: RunSpec = arguments.make_spec(arguments)
    name = "-".join([spec.stream.stream, *(Path(dataset).stem for dataset in spec.stream.datasets)])
    path = arguments.run_dir or Path("runs") / name
    if (path / "config.json").exists() and not arguments.overwrite:
        raise ValueError(
            f"{path}: holds a run already; continue it with --resume {path}, replace it with --overwrite, "
            "or name another with --run-dir"
        )
    return spec, RunDir(path)


def _resumed(arguments: argparse.Namespace) -> tuple[RunSpec, RunDir]:
    folder = RunDir.existing(arguments.resume, "--resume")
    return RunSpec.from_dict(folder.read_config()), folder
