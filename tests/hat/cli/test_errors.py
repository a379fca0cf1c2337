"""Errors and warnings become one line in our words."""

from __future__ import annotations

import argparse
import errno
import os
import warnings
from pathlib import Path

import pytest
import torch

from hat.cli.errors import as_typed, one_line, warnings_in_one_line
from hat.text import printable
from hat.warnings import CapacityWarning


def fresh(**given: object) -> argparse.Namespace:
    """The arguments of a fresh run of hat train."""
    return argparse.Namespace(command="train", quiet=True, **given)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "expected room on the disk, got a full disk"),
        (errno.EISDIR, "expected a file, got a folder"),
        (errno.ENOTDIR, "expected a folder, got a file"),
        (errno.EACCES, "expected a file or folder that this user may use, got no permission"),
        (errno.EROFS, "expected a place to write to, got a disk that can only be read"),
        (errno.ENAMETOOLONG, "expected a shorter path, got a path that is too long"),
        (errno.EXDEV, "expected a file or folder that can be used, got invalid cross-device link"),
    ],
)
def test_an_error_of_the_system_names_the_option_and_the_path(number: int, message: str, tmp_path: Path) -> None:
    error = OSError(number, os.strerror(number), str(tmp_path / "run" / "plots"))
    arguments = fresh(run_dir=tmp_path / "run")
    assert one_line(error, arguments) == f"--run-dir: {tmp_path}/run/plots: {message}"
    assert one_line(error, fresh()) == f"{tmp_path}/run/plots: {message}"
    assert one_line(OSError(number, os.strerror(number)), arguments) == f"a file or standard output: {message}"


def test_an_error_of_the_system_inside_another_message() -> None:
    text = "x.pt: expected to write a checkpoint, got OSError: [Errno 28] No space left on device; no checkpoint"
    assert one_line(ValueError(text), fresh()) == "x.pt: expected to write a checkpoint, got a full disk; no checkpoint"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. Set PYTORCH_CUDA_ALLOC_CONF"),
    ],
)
def test_too_little_memory(error: Exception) -> None:
    message = one_line(error, fresh())
    assert message.startswith(
        "expected a network and batches that fit into the memory, got larger ones; try a smaller --"
    )


def test_fields_are_called_as_they_are_typed() -> None:
    arguments = fresh()
    assert as_typed("lr: expected at least lr_min = 1", arguments) == "--lr: expected at least --lr-min = 1"
    assert as_typed("datasets: expected 1 or 3 channels", arguments) == "--dataset: expected 1 or 3 channels"
    assert as_typed("runs/lr_min/lr_min.pt: lr_min", arguments) == "runs/lr_min/lr_min.pt: --lr-min"
    assert as_typed("loss: expected finite", arguments) == "loss: expected finite"
    resumed = fresh(resume=Path("run"), device="cpu")
    assert as_typed("lr: expected 0.05 as in the checkpoint", resumed) == "lr: expected 0.05 as in the checkpoint"
    assert as_typed("device: expected cpu", resumed) == "--device: expected cpu"
    stored = argparse.Namespace(command="report", run_dir=Path("run"))
    assert as_typed("run_dir: expected the folder of a run", stored) == "RUN_DIR: expected the folder of a run"


def test_what_a_terminal_obeys_is_escaped() -> None:
    text = "r\u00e9sum\u00e9 \x1b[31m \x07 \u202e \udcff \n"
    assert printable(text) == r"résumé \x1b[31m \x07 \u202e \udcff \n"
    assert one_line(ValueError("a\x1b[31mb"), fresh()) == r"a\x1b[31mb"


def test_a_warning_is_one_line_and_comes_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *warning: print(warnings.formatwarning(*warning[:4]), end="")
        with warnings_in_one_line(fresh()):
            for text in (
                "task 0 uses no unit",
                "task 0 uses no unit",
                "two\n\x1blines",
            ):
                warnings.warn(text, CapacityWarning, stacklevel=1)
    printed = capsys.readouterr().out
    expected = ("task 0 uses no unit", r"two \x1blines")
    assert printed == "".join(f"hat train: warning: {text}\n" for text in expected)
    assert warnings.formatwarning is before
