"""The command line as a user meets it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from hat.cli import main
from hat.warnings import DriftWarning
from tests.hat.cut_short import cut_short

QUICK = ["--tasks", "2", "--limit", "20", "--hidden", "32", "--epochs", "2", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quick"
    assert main(["train", *QUICK, "--reference", "alone", "joint", "sequential", "--run-dir", str(folder)]) == 0
    return folder


def test_train_leaves_a_run(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert result["largest_drift"] == 0
    assert set(result["references"]) == {"alone", "joint", "sequential"}
    assert len(result["now"]) == 2
    assert result["random"] == [0.1, 0.1]
    assert "forgetting_ratio" in result
    names = {file.name for file in (run / "plots").iterdir()}
    assert names == {"accuracy_matrix.png", "accuracy_over_time.png", "capacity.png", "overlap.png"}
    config = json.loads((run / "config.json").read_text())
    assert config["training"]["epochs"] == 2
    assert config["stream"]["datasets"] == ["digits"]


@pytest.mark.usefixtures("unpainted")
def test_train_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *QUICK, "--run-dir", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    for line in ("permuted digits 0", "mean", "average accuracy", "backward transfer", "largest logit drift        0 "):
        assert line in printed


def test_evaluate_finds_no_drift(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "largest logit drift 0" in printed
    assert "permuted digits 1" in printed
    assert main(["evaluate", str(run), "--task", "1"]) == 0
    assert "permuted digits 0" not in capsys.readouterr().out


def test_evaluate_sees_a_changed_weight(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    from hat.training.rundir import RunDir

    shutil.copytree(run, tmp_path / "copy")
    folder = RunDir(tmp_path / "copy")
    payload = folder.load()
    payload["model"]["heads.0.bias"] += 0.25
    folder.save(payload)
    with pytest.warns(DriftWarning, match=r"heads\.0\.bias has moved"):
        assert main(["evaluate", str(folder.path)]) == 2
    printed = capsys.readouterr()
    assert "largest logit drift 0.25" in printed.out
    assert "heads.0.bias" in printed.out + printed.err


def test_report_draws(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for picture in (run / "plots").iterdir():
        picture.unlink()
    assert main(["report", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "average accuracy" in printed
    assert "joint" in printed
    assert "units used by every task" in printed
    assert "1: permuted digits 1" in printed
    assert all(picture.stat().st_size > 5000 for picture in (run / "plots").iterdir())
    names = {"accuracy_matrix", "accuracy_over_time", "capacity", "overlap", "units"}
    assert {picture.stem for picture in (run / "plots").iterdir()} == names


@pytest.mark.usefixtures("unpainted")
def test_report_of_a_run_that_a_trainer_left_knows_no_network(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("config.json", "plots"))
    assert main(["report", str(copy)]) == 0
    printed = capsys.readouterr()
    assert "average accuracy" in printed.out
    assert "hat report: warning: no config of the network" in printed.err
    assert len(list((copy / "plots").iterdir())) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs: expected at least 1, got 0"),
        (["--lr", "-1"], "lr: expected a finite number > 0, got -1.0"),
        (["--dataset", "no-such-thing"], "no-such-thing"),
        (["--dataset", "digits", "mnist"], "dataset: expected one for a permuted stream"),
        (["--network", "alexnet"], "input_shape: expected images of 12 x 12 or more, got (1, 8, 8)"),
        (["--hidden", "0"], "hidden: expected"),
        (["--dropout", "1"], "dropout: expected a finite number >= 0 and < 1, got 1.0"),
        (["--s-max", "0.5"], "s_max: expected a finite number > 1, got 0.5"),
        (["--device", "abacus"], "device: expected auto, cpu, cuda or cuda:N, got 'abacus'"),
        (["--tasks", "0"], "tasks"),
        (["--validation", "2"], "validation"),
        (["--optimizer", "adam", "--momentum", "0.9"], "momentum: expected 0 with adam"),
        (["--classes-per-task", "3"], "classes_per_task: expected for a split stream only"),
        (["--stream", "mixture", "--tasks", "-1"], "tasks: expected at least 1, got -1"),
        (["--lr", "inf"], "lr: expected a finite number > 0, got inf"),
    ],
)
def test_wrong_options_give_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *QUICK, "--run-dir", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hat train: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


@pytest.mark.usefixtures("unpainted")
def test_taken_run_directory_is_refused_then_replaced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "checkpoint.pt").read_bytes()
    assert main(["train", *QUICK, "--run-dir", str(run)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (run / "checkpoint.pt").read_bytes() == before
    mine = tmp_path / "run"
    mine.mkdir()
    (mine / "config.json").write_text("{}")
    (mine / "thesis.txt").write_text("mine")
    assert main(["train", *QUICK, "--run-dir", str(mine), "--overwrite"]) == 2
    assert f"{mine}/config.json: expected no file or a file that hat has written" in capsys.readouterr().err
    assert {file.name: file.read_text() for file in mine.iterdir()} == {"config.json": "{}", "thesis.txt": "mine"}
    (mine / "config.json").unlink()
    assert main(["train", *QUICK, "--run-dir", str(mine), "--overwrite"]) == 0
    assert (mine / "thesis.txt").read_text() == "mine"


def test_resume_needs_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "/nowhere/at/all"]) == 2
    assert "--resume: expected the folder of a run, got /nowhere/at/all" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_no_run_there(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path / "nothing")]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err
    assert main([command, str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_wrong_task(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--task", "7"]) == 2
    assert "--task: expected finished tasks, 0 to 1, got 7" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"stream": 1}', "not json"])
def test_broken_config(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(content)
    assert main(["train", "--resume", str(tmp_path)]) == 2
    assert "config" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["train"], ["compress"], ["evaluate"], ["report"], ["data"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--help"])
    assert exit_.value.code == 0
    assert "usage: hat" in capsys.readouterr().out


def test_unknown_option_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["train", "--magic"], ["fly"], []):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2


def test_ctrl_c_says_how_to_resume(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = cut_short(["train", *QUICK, "--run-dir", str(folder)], epochs=1, by=signal.SIGINT)
    assert process.returncode == 130
    assert f"hat train --resume {folder}" in process.stderr
    assert "Traceback" not in process.stderr
    assert main(["evaluate", str(folder)]) == 2  # no task is finished, and it says so
