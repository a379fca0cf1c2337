"""Start, stop, resume and replace runs: no figure is lost, and every message is true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import hat
from hat.cli import main

pytestmark = pytest.mark.usefixtures("unpainted")

QUICK = ["--tasks", "2", "--limit", "20", "--hidden", "32", "--epochs", "2", "--quiet"]


def result_of(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "result.json").read_text()))


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_one_class_tasks_have_no_forgetting_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--stream", "split", "--classes-per-task", "1", "--reference", "joint", "--run-dir", str(tmp_path / "run")]
    assert main(["train", *QUICK, *words]) == 0
    assert "forgetting ratio           -   (joint training is no better than guessing)" in capsys.readouterr().out
    assert result_of(tmp_path / "run")["forgetting_ratio"] is None


def test_result_is_kept_when_a_reference_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures of the run are written before the references, and each reference as soon as it is known."""
    folder = tmp_path / "run"

    def reference(kind: str, *_: object, **__: object) -> list[float]:
        if kind == "joint":
            raise KeyboardInterrupt
        return [0.5, 0.5]

    monkeypatch.setattr("hat.cli.train.reference_accuracy", reference)
    assert main(["train", *QUICK, "--reference", "alone", "joint", "--run-dir", str(folder)]) == 130
    assert f"hat train --resume {folder}" in capsys.readouterr().err
    assert result_of(folder)["references"] == {"alone": [0.5, 0.5]}
    monkeypatch.setattr("hat.cli.train.reference_accuracy", lambda kind, *_, **__: [0.75, 0.75])
    assert main(["train", "--resume", str(folder), "--quiet"]) == 0
    assert result_of(folder)["references"] == {"alone": [0.5, 0.5], "joint": [0.75, 0.75]}
    assert "forgetting_ratio" in result_of(folder)


@pytest.mark.parametrize("words", ["vit --width 12 --depth 1"])
def test_run_of_a_converted_network(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    options = ["--tasks", "2", "--limit", "20", "--epochs", "2", "--lr", "0.01", "--quiet"]
    command = ["train", *options, "--network", *words.split(), "--reference", "sequential", "--run-dir", folder]
    assert main(command) == 0
    assert main(["evaluate", folder]) == 0
    assert "largest logit drift 0" in capsys.readouterr().out
    assert main(["report", folder]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [config["network"][name] for name in ("network", "width")] == [words.split()[0], int(words.split()[2])]


def test_resume_of_a_finished_run_keeps_its_references(run: Path) -> None:
    before = result_of(run)
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert result_of(run) == before


def test_reference_can_be_added_to_a_finished_run(run: Path) -> None:
    before = result_of(run)["references"]
    assert main(["train", "--resume", str(run), "--reference", "alone", "--quiet"]) == 0
    after = result_of(run)["references"]
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert set(after) == {"joint", "alone"}
    assert after["joint"] == before["joint"]
    assert json.loads((run / "config.json").read_text())["references"] == ["joint", "alone"]


def test_options_that_resume_would_ignore_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    for words in (["--epochs", "50", "--lr", "1"], ["--overwrite"], ["--run-dir", "elsewhere"], ["--seed", "0"]):
        assert main(["train", "--resume", str(run), "--quiet", *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "--resume: expected only --quiet, --data, --device, --reference, --verify beside it" in error
        assert all(word in error for word in words if word.startswith("--"))
    assert contents(run) == before


@pytest.mark.parametrize(
    "words",
    [
        ["--validation", "0"],
        ["--device", "meta"],
        ["--device", "xpu:9"],
        ["--tasks", "0"],
        ["--stream", "split", "--classes-per-task", "11"],
        ["--network", "alexnet"],
        ["--dataset", "no-such-thing"],
        ["--hidden", "99999999999999999999"],
    ],
)
def test_failed_start_deletes_nothing_and_blocks_nothing(
    run: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    assert main(["train", *QUICK, "--run-dir", str(run), "--overwrite", *words]) == 2
    assert contents(run) == before
    fresh = tmp_path / "fresh"
    for _ in range(2):
        capsys.readouterr()
        assert main(["train", *QUICK, "--run-dir", str(fresh), *words]) == 2
        assert "holds a run" not in capsys.readouterr().err
    assert not contents(fresh)


@pytest.mark.parametrize("where", ["hat.cli.spec.StreamSpec.build", "hat.training.fit.train_epoch"])
@pytest.mark.parametrize("words", [[], ["--overwrite"]])
def test_ctrl_c_before_the_first_epoch_says_that_nothing_is_saved(
    run: Path, words: list[str], where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not words:
        shutil.rmtree(run)
    before = contents(run)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    command = ["train", *QUICK, "--run-dir", str(run), *words]
    assert main(command) == 130
    error = capsys.readouterr().err
    assert "nothing of this run was saved yet; the same command starts the run again" in error
    assert "--resume" not in error
    assert contents(run) == before
    monkeypatch.undo()
    assert main(command) == 0


def test_ctrl_c_while_resuming_says_how_to_resume(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hat.cli.spec.StreamSpec.build", interrupt)
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 130
    assert f"continue with: hat train --resume {run} --device cpu" in capsys.readouterr().err


def test_config_alone_is_no_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in run.iterdir():
        if file.name != "config.json":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    assert main(["train", "--resume", str(run)]) == 2
    assert "expected a run with a finished epoch, got no checkpoint" in capsys.readouterr().err
    assert main(["train", *QUICK, "--run-dir", str(run)]) == 0


def test_run_of_a_relative_path_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    arrays = {f"x_{part}": draw.integers(0, 256, (60, 4, 4), dtype=np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "mine.npz", **arrays, y_train=np.arange(60) % 3, y_test=np.arange(60) % 3)
    monkeypatch.chdir(tmp_path)
    words = ["--dataset", "mine.npz", "--tasks", "2", "--hidden", "8", "--epochs", "1", "--quiet", "--run-dir", "run"]
    assert main(["train", *words]) == 0
    monkeypatch.chdir("/")
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert main(["train", "--resume", str(tmp_path / "run"), "--quiet"]) == 0


def test_images_of_different_sizes_need_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        side = 6 + number % 3
        image.fromarray(draw.integers(0, 256, (side, side), dtype=np.uint8)).save(folder / f"{number}.png")
    words = ["--dataset", str(tmp_path / "photos"), "--tasks", "1", "--hidden", "8", "--epochs", "1", "--quiet"]
    assert main(["train", *words, "--run-dir", str(tmp_path / "run")]) == 2
    assert "--size H W, to resize them" in capsys.readouterr().err
    assert main(["train", *words, "--size", "5", "7", "--run-dir", str(tmp_path / "run")]) == 0
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["stream"]["size"] == [5, 7]
    assert main(["evaluate", str(tmp_path / "run")]) == 0


def test_test_part_without_images_is_found_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    arrays = {f"x_{part}": draw.integers(0, 256, (60, 4, 4), dtype=np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "notest.npz", **arrays, y_train=np.arange(60) % 4, y_test=np.arange(60) % 2)
    words = [
        "--stream",
        "split",
        "--dataset",
        str(tmp_path / "notest.npz"),
        "--hidden",
        "8",
        "--epochs",
        "1",
        "--quiet",
    ]
    assert main(["train", *words, "--run-dir", str(tmp_path / "run")]) == 2
    assert "stream: expected at least one test image in task 'split notest 1', got none" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_data_lists_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    printed = capsys.readouterr().out
    names = [source.name for source in hat.data.sources()]
    assert [line.split()[0] for line in printed.splitlines()] == names
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
