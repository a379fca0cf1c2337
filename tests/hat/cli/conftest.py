"""A small finished run that many tests start from, and runs whose pictures are put together but not painted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hat.cli import main

QUICK = ["--tasks", "2", "--limit", "20", "--hidden", "32", "--epochs", "2", "--quiet"]


def leave_pictures_empty(patch: pytest.MonkeyPatch) -> None:
    """To paint them takes longer than all else in a run of this size."""
    patch.setattr("hat.plots.save", lambda figure, path: Path(path).write_bytes(b""))


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_pictures_empty(monkeypatch)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a reference; nobody writes into it."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    with pytest.MonkeyPatch.context() as patch:
        leave_pictures_empty(patch)
        assert main(["train", *QUICK, "--reference", "joint", "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")
