"""A small finished run, from which many tests start. Pictures are made, but not painted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hat.cli import main

QUICK = ["--tasks", "2", "--limit", "20", "--hidden", "32", "--epochs", "2", "--quiet"]


def leave_pictures_empty(patch: pytest.MonkeyPatch) -> None:
    """Do not paint pictures, because painting takes most of the time of such a small run."""
    patch.setattr("hat.plots.save", lambda figure, path: Path(path).write_bytes(b""))


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_pictures_empty(monkeypatch)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a reference. No test may write to its folder."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    with pytest.MonkeyPatch.context() as patch:
        leave_pictures_empty(patch)
        assert main(["train", *QUICK, "--reference", "joint", "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")
