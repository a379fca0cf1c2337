"""`hat train`: learn a stream of tasks."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hat.cli.options import make_spec, refuse_beside_resume, resume_hint
from hat.cli.report import PICTURES, draw, plots_available
from hat.cli.spec import RunSpec
from hat.cli.specfile import read_spec
from hat.cli.summary import read_references, render, summarise
from hat.data import Stream
from hat.training import PlainModel, Trainer, TrainResult, reference_accuracy
from hat.training.rundir import RunDir

NOTHING_SAVED = "nothing of this run was saved yet; the same command starts the run again"
_BESIDE_RESUME = ("quiet", "root", "device", "references", "verify")


def run_train(arguments: argparse.Namespace) -> None:
    """Learn a stream of tasks and print a summary.

    Raises:
        ValueError: an option is wrong, data is missing, or the folder holds a run.
    """
    resume = getattr(arguments, "resume", None)
    arguments.hint = lambda: NOTHING_SAVED if resume is None else resume_hint(arguments, resume)
    spec, folder = _fresh(arguments) if resume is None else _resumed(arguments, resume)
    stream = spec.stream.build()
    model = spec.model(stream.input_shape)
    shown = not arguments.quiet
    if shown:
        print(f"{stream.name}: {len(stream)} tasks of {stream.input_shape} inputs; run directory {folder.path}")
    trainer = Trainer(
        model,
        stream,
        spec.training,
        run_dir=folder,
        description=spec.to_dict(),
        progress=shown,
        verify=spec.verify,
        grow=spec.grow,
    )
    if resume is None:
        arguments.hint = lambda: resume_hint(arguments, folder.path) if trainer.saved else NOTHING_SAVED
    with folder.owned():
        if resume is not None and hasattr(arguments, "references"):
            folder.write_config({**folder.read_config(), "references": spec.references})
        result = trainer.run(resume=resume is not None, overwrite=hasattr(arguments, "overwrite"))
        summary = _compared(spec, stream, folder, result, shown)
        print()
        print(render(summary))
        print(f"learned in          {result.seconds:7.1f} s on {spec.training.torch_device()}")
        if plots_available():
            draw(folder, result.history, model.state_dict(), summary["references"])
            print(f"plots               {folder.plots}")


def _compared(spec: RunSpec, stream: Stream, folder: RunDir, result: TrainResult, shown: bool) -> dict[str, Any]:
    """Train the references, and return the summary with them. The file result.json is written after each reference."""
    guesses = [1 / len(task.classes) for task in stream]
    try:
        references, _ = read_references(folder, len(stream))
    except ValueError:  # result.json is damaged: it is written anew
        references = {}
    summary = summarise(result.history, references, guesses)
    folder.write_result({**summary, "seconds": result.seconds})
    for kind in spec.references:
        if kind in references:
            continue
        if shown:
            print(f"reference without HAT: {kind}", flush=True)
        make_model = partial(spec.model, stream.input_shape, PlainModel)
        references[kind] = reference_accuracy(kind, make_model, stream, spec.training, progress=shown)
        summary = summarise(result.history, references, guesses)
        folder.write_result({**summary, "seconds": result.seconds})
    return summary


def _fresh(arguments: argparse.Namespace) -> tuple[RunSpec, RunDir]:
    spec = make_spec(arguments)
    name = "-".join([spec.stream.stream, *(Path(dataset).stem for dataset in spec.stream.datasets)])
    folder = RunDir(getattr(arguments, "run_dir", None) or Path("runs") / name)
    folder.check_not_owned()
    if not hasattr(arguments, "overwrite"):
        try:
            folder.check_free()
        except ValueError as error:
            advice = f"continue it with --resume {folder.path}, " if folder.checkpoint.exists() else ""
            raise ValueError(f"{error}; {advice}replace it with --overwrite, or name another with --run-dir") from None
    folder.check_names(0, [folder.config.name, folder.result.name, *PICTURES])
    return spec, folder


def _resumed(arguments: argparse.Namespace, path: Path) -> tuple[RunSpec, RunDir]:
    refuse_beside_resume(arguments, _BESIDE_RESUME)
    folder = RunDir.existing(path, "--resume")
    folder.check_not_owned()
    spec = read_spec(folder, data=getattr(arguments, "root", None), device=getattr(arguments, "device", None))
    if not folder.checkpoint.exists():
        raise ValueError(f"{path}: expected a run with a finished epoch, got no checkpoint; start the run again")
    added = [kind for kind in getattr(arguments, "references", ()) if kind not in spec.references]
    if added:
        spec = replace(spec, references=(*spec.references, *dict.fromkeys(added)))
    spec = replace(spec, verify=getattr(arguments, "verify", spec.verify))
    return spec, folder
