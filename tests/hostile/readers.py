"""The public ways to read a file, each as a function of the folder and of the file."""

from __future__ import annotations

import contextlib
import copy
import io
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock

import torch

import hat
import hat.data
from hat.cli import main
from tests.hostile.kind import CAP_GIB

QUICK = ["--tasks", "2", "--limit", "20", "--hidden", "32", "--epochs", "2", "--quiet"]


class RefusedError(ValueError):
    """What a command printed when it ended with an error."""


def load_data(folder: Path, path: Path) -> None:
    hat.data.load(path, max_gib=CAP_GIB)


def load_checkpoint(folder: Path, path: Path) -> None:
    hat.checkpoint.load(path)


def load_model(folder: Path, path: Path) -> None:
    """Load the state of a checkpoint into a model of two tasks. A refused state must leave the model as it was."""
    model = copy.deepcopy(_model())
    state = hat.checkpoint.load(path)["model"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        model.load_state_dict(state)
    except Exception as error:
        after = model.state_dict()
        changed = [name for name, value in before.items() if name not in after or not torch.equal(value, after[name])]
        if changed or len(after) != len(before):
            raise AssertionError(f"refused, but {changed} has changed") from error
        raise


@cache
def _model() -> hat.HATModel:
    model = hat.HATModel(hat.models.mlp(64, (32,)))
    for _ in range(2):
        model.begin_task(10)
        model.end_task()
    return model


def command(*arguments: str) -> Callable[[Path, Path], None]:
    """A command on the folder of a run."""

    def run(folder: Path, path: Path) -> None:
        printed, errors = io.StringIO(), io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            try:
                status = main([*arguments, str(folder)])
            except SystemExit as error:
                status = int(str(error.code))
        errors.seek(0)
        text = errors.read()
        if status:
            raise RefusedError(text.removesuffix("\n").removeprefix(f"hat {arguments[0]}: error: "))
        printed.getvalue().encode()  # a terminal must be able to show the text
        if "\x1b" in printed.getvalue() + text:
            raise AssertionError("a code of the terminal was printed")

    return run


READERS: dict[str, Callable[[Path, Path], None]] = {
    "data": load_data,
    "checkpoint": load_checkpoint,
    "model": load_model,
    "evaluate": command("evaluate"),
    "report": command("report"),
    "resume": command("train", "--quiet", "--resume"),
    "halfway": command("train", "--quiet", "--resume"),
    "compress": command("compress", "--quiet", "--resume"),
}
_OF_RUNS = ("evaluate", "report", "resume", "model", "compress")


def make_runs(folder: Path) -> None:
    """Make a whole run, and a run that was cut short in its second epoch."""
    from hat.training import fit

    main(["train", *QUICK, "--run-dir", str(folder / "whole")])
    train_epoch = fit.train_epoch
    with (
        mock.patch.object(fit, "train_epoch", side_effect=[mock.DEFAULT, KeyboardInterrupt], wraps=train_epoch),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        main(["train", *QUICK, "--momentum", "0.9", "--run-dir", str(folder / "halfway")])


def prepare(reader: str, runs: Path, folder: Path) -> None:
    """Make the folder of a kind: empty, or a copy of a run."""
    if reader in _OF_RUNS:
        shutil.copytree(runs / "whole", folder)
    elif reader == "halfway":
        shutil.copytree(runs / "halfway", folder)
    else:
        folder.mkdir()
