"""The folders that the commands write to: one run at a time, and nothing of somebody else's is replaced or removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hat.cli import main
from hat.ownership import HOST, LOCK
from hat.training.written import LIST

pytestmark = pytest.mark.usefixtures("unpainted")

QUICK = ["--limit", "4", "--hidden", "8", "--epochs", "1", "--quiet"]
TRAIN = ["train", "--tasks", "1", *QUICK]
COMPRESS = ["compress", *QUICK]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert main(list(map(str, words))) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def owned_by(folder: Path, process: int) -> None:
    (folder / LOCK).write_text(json.dumps({"host": HOST, "process": process, "started": None, "key": "0"}))


def test_two_runs_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is refused as long as the first lives, and the first ends as if it were alone."""
    folder = tmp_path / "both"
    command = [sys.executable, "-m", "hat", *TRAIN, "--epochs", "100000", "--lr-min", "0", "--run-dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as first:
        try:
            while not (folder / "checkpoint.pt").exists():
                assert first.poll() is None
                time.sleep(0.05)
            for words in ([*TRAIN, "--run-dir", folder], ["train", "--resume", folder, "--quiet"]):
                assert f"{folder}: expected a folder that no other run" in refused(capsys, *words)
            error = refused(capsys, *TRAIN, "--run-dir", folder, "--overwrite")
            assert error.endswith(f"got one in use by process {first.pid} on {HOST}\n")
            first.send_signal(signal.SIGINT)
            assert f"continue with: hat train --resume {folder}" in first.communicate()[1]
        finally:
            first.kill()
    assert not (folder / LOCK).exists()
    assert main([*TRAIN, "--run-dir", str(folder), "--overwrite"]) == 0


def test_a_run_that_is_being_written_can_be_read(run: Path) -> None:
    """`evaluate`, `report` and `export` take what is saved, and touch no lock."""
    owned_by(run, os.getppid())
    before = contents(run)
    assert main(["evaluate", str(run)]) == 0
    assert contents(run) == before
    assert main(["report", str(run)]) == 0
    assert main(["export", str(run), "--task", "0", "--format", "safetensors"]) == 0
    assert before.items() <= {**contents(run), LIST: before[LIST]}.items()
    assert [file.name for file in run.rglob(f"{LOCK}*")] == [LOCK]


@pytest.mark.parametrize(
    "name", ["checkpoint.pt", "config.json", "result.json", "metrics.jsonl", "logits/task-0000.pt", "plots/overlap.png"]
)
@pytest.mark.parametrize("where", [".", "folder"])
def test_files_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, where: str
) -> None:
    folder = tmp_path / where
    for file in ("plots/figure.png", name):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("mine")
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, *TRAIN, "--run-dir", where, "--overwrite")
    if name != "logits/task-0000.pt":  # found when the stream is known
        assert f"{Path(where) / name}: expected no file or a file that hat has written, got another" in error
    assert contents(tmp_path) == before
    refused(capsys, *TRAIN, "--run-dir", where)
    assert contents(tmp_path) == before
    (folder / name).unlink()
    assert main([*TRAIN, "--run-dir", where, "--overwrite"]) == 0
    assert (folder / "plots" / "figure.png").read_text() == "mine"


def test_overwriting_leaves_the_pictures_of_the_user(run: Path) -> None:
    (run / "plots" / "figure.png").write_text("mine")
    assert main(["report", str(run)]) == 0
    assert (run / "plots" / "units.png").exists()
    assert main([*TRAIN, "--run-dir", str(run), "--overwrite"]) == 0
    pictures = {file.name for file in (run / "plots").iterdir()}
    assert pictures == {"accuracy_matrix.png", "accuracy_over_time.png", "capacity.png", "overlap.png", "figure.png"}


def test_report_replaces_no_picture_of_the_user(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "plots" / "units.png").write_text("mine")
    before = contents(run)
    assert f"{run}/plots/units.png: expected no file or a file that hat has written" in refused(capsys, "report", run)
    assert contents(run)["plots/units.png"] == b"mine"
    assert before.keys() == contents(run).keys()


def test_a_run_without_a_list_is_one_of_an_earlier_version(run: Path) -> None:
    (run / LIST).unlink()
    (run / "plots" / "figure.png").write_text("mine")
    assert main(["report", str(run)]) == 0
    (run / LIST).unlink()
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    (run / LIST).unlink()
    assert main([*TRAIN, "--run-dir", str(run), "--overwrite"]) == 0
    assert (run / "plots" / "figure.png").read_text() == "mine"
    assert not (run / "logits" / "task-0001.pt").exists()


def test_compress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("compression.json", "compression.png", "config.json", "digits/checkpoint.pt", "digits/config.json"):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
        error = refused(capsys, *COMPRESS, "--run-dir", folder, "--overwrite")
        assert f"{folder / name}: expected no file or a file that hat has written" in error
        assert contents(folder) == {name: b"mine"}
    run = tmp_path / "run"
    (run / "digits").mkdir(parents=True)
    (run / "digits" / "thesis.txt").write_text("mine")
    assert main([*COMPRESS, "--run-dir", str(run)]) == 0
    owned_by(run, os.getppid())
    for words in ([*COMPRESS, "--run-dir", run, "--overwrite"], ["compress", "--resume", run]):
        assert f"{run}: expected a folder that no other run writes to" in refused(capsys, *words)
    (run / LOCK).unlink()
    for folder in (run, run / "digits"):
        (folder / LIST).unlink()  # as an earlier version left it
    assert main(["compress", "--resume", str(run), "--quiet"]) == 0
    assert main([*COMPRESS, "--run-dir", str(run), "--overwrite"]) == 0
    assert (run / "digits" / "thesis.txt").read_text() == "mine"


EXPORT = ["--task", "0", "--format", "safetensors"]


@pytest.mark.parametrize("name", ["weights.safetensors", "export.json"])
def test_export_replaces_no_file_of_the_user(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = tmp_path / "to"
    folder.mkdir()
    (folder / name).write_text("mine")
    error = refused(capsys, "export", run, *EXPORT, "--to", folder)
    assert f"{folder / name}: expected no file or a file of an earlier export, got another" in error
    assert contents(folder) == {name: b"mine"}


def test_export_replaces_an_earlier_export_and_nothing_else(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "to"
    assert main(["export", str(run), *EXPORT, "--to", str(folder)]) == 0
    (folder / "network.pt2").write_text("mine")
    assert main(["export", str(run), *EXPORT, "--to", str(folder)]) == 0
    assert "network.pt2: expected no file or a file of an earlier export" in refused(
        capsys, "export", run, "--task", "0", "--to", folder
    )
    facts = json.loads((folder / "export.json").read_text())
    assert facts.pop("files") == ["export.json", "weights.safetensors"]
    assert contents(folder).keys() == {"network.pt2", "export.json", "weights.safetensors"}
    (folder / "export.json").write_text(json.dumps(facts))  # as an earlier version left it
    assert main(["export", str(run), *EXPORT, "--to", str(folder)]) == 0
    owned_by(folder, os.getppid())
    assert "expected a folder that no other run writes to" in refused(capsys, "export", run, *EXPORT, "--to", folder)


def test_an_export_that_fails_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("hat.cli.export._write_weights", full)
        refused(capsys, "export", run, *EXPORT, "--to", tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []
    shutil.rmtree(tmp_path / "to")
    assert main(["export", str(run), *EXPORT, "--to", str(tmp_path / "to")]) == 0
