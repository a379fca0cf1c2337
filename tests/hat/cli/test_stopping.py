"""Ctrl-C, SIGTERM and closed streams end a command with one line and the exit status of a shell."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from hat.cli import main
from hat.cli.stopping import Stop, is_command_line, stopped_by_signals
from tests.hat.cut_short import cut_short

_AT_IMPORT = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""
_AT_THE_END = """
import atexit, os, signal

atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
"""


@pytest.mark.parametrize(("when", "lines"), [(_AT_IMPORT, 0), (_AT_THE_END, 8)], ids=["imports", "end"])
def test_ctrl_c_while_python_starts_and_ends(when: str, lines: int, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(when)
    paths = os.pathsep.join([str(tmp_path), os.getcwd()])
    process = subprocess.run(
        [sys.executable, "-m", "hat", "data"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 130
    assert process.stderr == "hat: interrupted\n"
    assert process.stdout.count("\n") == lines


def test_sigterm_in_a_run_that_warns(tmp_path: Path) -> None:
    """The first task uses no unit, which is a warning; in the second the process is terminated."""
    line = "train --tasks 2 --limit 20 --hidden 4 --epochs 1 --lr 0.5 --quiet --run-dir"
    process = cut_short([*line.split(), str(tmp_path / "run")], epochs=1, by=signal.SIGTERM)
    assert process.returncode == 143
    assert process.stderr.splitlines() == [
        "hat train: warning: task 0 uses no unit of gates.linear1",
        f"hat train: terminated; all finished epochs are saved; continue with: hat train --resume {tmp_path / 'run'}",
    ]


def test_sigterm_is_told_from_ctrl_c() -> None:
    for number, kind, status in ((signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)):
        stop, before = Stop(), signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt), stopped_by_signals(stop):
            signal.raise_signal(number)
        assert (stop.kind, stop.status) == (kind, status)
        assert signal.getsignal(number) is before


def test_handlers_of_others_stay() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    try:
        with stopped_by_signals(Stop()):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught == [signal.SIGTERM]


@pytest.mark.parametrize(
    ("arguments", "original", "expected"),
    [
        (["-m", "train"], ["python", "-X", "dev", "-m", "hat", "train"], True),
        (["-m"], ["python", "-mhat"], True),
        (["-m", "hat"], ["python", "-m", "pytest", "hat"], False),
        (["/usr/bin/hat", "train"], ["python", "/usr/bin/hat", "train"], True),
        (["hat.py"], ["python", "hat.py"], False),
        (["", "hat"], ["python"], False),
        ([], [], False),
    ],
)
def test_which_process_is_the_command_line(
    arguments: list[str], original: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert is_command_line() is expected


class Refusing(io.StringIO):
    """Standard output that takes nothing."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> NoReturn:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
        (
            OSError(28, "No space left on device"),
            2,
            "hat data: error: a file or standard output: expected room on the disk, got a full disk\n",
        ),
    ],
)
def test_standard_output_that_takes_nothing(
    error: OSError, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Refusing(error))
    assert main(["data"]) == status
    assert capsys.readouterr().err == line


def test_a_run_without_a_reader_says_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Refusing(BrokenPipeError(32, "Broken pipe")))
    assert main(["train", "--limit", "20", "--run-dir", str(tmp_path / "run")]) == 141
    assert capsys.readouterr().err.startswith(
        "hat train: the reader of standard output has closed it; nothing of this run was saved yet"
    )


def test_closed_streams(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Python sets a stream to None if the caller has closed it."""
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["report", "/nowhere"]) == 2
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["data"]) == 0
    assert capsys.readouterr().out == ""
