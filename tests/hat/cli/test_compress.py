"""`hat compress` as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import hat
from hat.cli import compression, main
from hat.cli.specfile import read_spec
from hat.training import PlainModel
from hat.training.rundir import RunDir

pytestmark = pytest.mark.usefixtures("unpainted")

QUICK = ["--limit", "20", "--hidden", "16", "--epochs", "3", "--momentum", "0.9"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quick"
    assert main(["compress", *QUICK, "--quiet", "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def figures_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "compression.json").read_text())["datasets"]["digits"])


def test_a_run_leaves_its_figures(finished: Path) -> None:
    found = figures_of(finished)
    weights = (64 * 16 + 16) + (16 * 10 + 10)
    assert found["weights"] == weights
    assert 0 < found["kept"] < weights
    assert [len(found["epochs"][name]) for name in ("val_accuracy", "kept")] == [3, 3]
    assert found["kept"] / weights in found["epochs"]["kept"]  # of the epoch with the best validation loss
    assert 0.1 < found["accuracy"] <= 1
    assert 0.1 < found["without"]["accuracy"] <= 1
    assert len(found["without"]["epochs"]) == 3
    spec = read_spec(RunDir(finished))
    assert (spec.training.lamb, spec.gates.init, spec.stream.datasets) == (1.5, "uniform", ("digits",))
    assert (finished / "compression.png").stat().st_size > 5000


def test_a_line_an_epoch_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--lamb", "0.5", "--init", "normal", "--epochs", "2", "--run-dir", str(tmp_path / "run")]
    assert main(["compress", *QUICK, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [["digits", "epoch", "1"], ["digits", "epoch", "2"]]
    assert "validation" in lines[0]
    assert lines[1].split()[-3:-1] == ["weights", "kept"]
    assert lines[3].split() == ["dataset", "epochs", "accuracy", "without", "HAT", "weights", "kept"]
    found = figures_of(tmp_path / "run")
    share = f"{found['kept'] / found['weights']:.2%}"
    assert lines[5].split()[:2] + lines[5].split()[-2:] == ["digits", "2", "1,210", share]
    assert read_spec(RunDir(tmp_path / "run")).training.lamb == 0.5


def test_each_dataset_is_a_run_that_other_commands_take(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run / "digits")]) == 0
    assert "largest logit drift 0" in capsys.readouterr().out


def test_the_figures_are_those_of_the_model_in_the_folder(run: Path) -> None:
    saved = RunDir(run / "digits").load()
    spec = read_spec(RunDir(run / "digits"))
    model = spec.model((1, 8, 8))
    model.load_state_dict(saved["model"])
    found = figures_of(run)
    assert hat.weights_kept(model, 0) == hat.WeightsKept(found["kept"], found["weights"])


def test_interrupted_runs_go_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is interrupted in the middle of a dataset, or between its two parts, ends with the same figures."""
    folder, counted = tmp_path / "run", []
    command = ["compress", *QUICK, "--run-dir", str(folder)]

    def in_the_second_epoch(*arguments: Any) -> hat.WeightsKept:
        counted.append(arguments)
        if len(counted) == 2:
            raise KeyboardInterrupt
        return hat.weights_kept(*arguments)

    def before_the_plain_network(model: hat.HATModel, *arguments: Any, **options: Any) -> hat.Trainer:
        if isinstance(model, PlainModel):
            raise KeyboardInterrupt
        return hat.Trainer(model, *arguments, **options)

    monkeypatch.setattr(compression, "weights_kept", in_the_second_epoch)
    assert main(command) == 130
    assert f"hat compress --resume {folder}" in capsys.readouterr().err
    assert main(command) == 2
    assert f"continue it with --resume {folder}, replace it with --overwrite" in capsys.readouterr().err
    monkeypatch.setattr(compression, "weights_kept", hat.weights_kept)
    monkeypatch.setattr(compression, "Trainer", before_the_plain_network)
    assert main(["compress", "--resume", str(folder)]) == 130
    printed = capsys.readouterr()
    assert [line.split()[2] for line in printed.out.splitlines()[:2]] == ["2", "3"]
    assert f"hat compress --resume {folder}" in printed.err
    assert figures_of(folder)["without"] is None
    monkeypatch.setattr(compression, "Trainer", hat.Trainer)
    assert main(["compress", "--resume", str(folder), "--quiet"]) == 0
    one, other = figures_of(folder), figures_of(finished)
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_nothing_saved_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hat.training.trainer.Fit._epoch", interrupted)
    command = ["compress", *QUICK, "--run-dir", str(tmp_path / "run")]
    for _ in range(2):  # nothing is in the way of the second
        assert main(command) == 130
        assert "nothing of this run was saved yet" in capsys.readouterr().err


def test_a_finished_run_is_refused_then_replaced_then_resumed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "compression.json").read_bytes()
    command = ["compress", *QUICK, "--run-dir", str(run), "--quiet"]
    assert main(command) == 2
    assert "expected a folder without a run, got a run" in capsys.readouterr().err
    assert (run / "compression.json").read_bytes() == before
    (run / "compression.png").unlink()
    assert main(["compress", "--resume", str(run), "--quiet"]) == 0  # draws again, learns nothing
    assert (run / "compression.json").read_bytes() == before
    assert (run / "compression.png").exists()
    assert main([*command, "--epochs", "1", "--overwrite"]) == 0
    assert len(figures_of(run)["epochs"]["kept"]) == 1


def test_what_was_learned_with_other_options_is_learned_anew(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["training"]["epochs"] = 1
    (run / "config.json").write_text(json.dumps(config))
    assert main(["compress", "--resume", str(run), "--quiet"]) == 0
    found = figures_of(run)
    assert (len(found["epochs"]["kept"]), len(found["without"]["epochs"])) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lamb", "-1"], "lamb: expected a finite number >= 0, got -1.0"),
        (["--dataset", "digits", "digits"], "dataset: expected each once, by different names, got digits, digits"),
        (["--dataset", "no-such-thing"], "no-such-thing"),
        (["--hidden", "0"], "hidden: expected"),
        (["--resume", "/nowhere"], "--resume: expected only --quiet, --data, --device beside it"),
    ],
)
def test_wrong_options_give_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", *QUICK, "--run-dir", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hat compress: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_network_that_does_not_fit_one_dataset_is_refused_before_any_is_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--network", "alexnet", "--dropout", "0.1", "--run-dir", str(tmp_path / "run")]
    assert main(["compress", *arguments]) == 2
    assert "input_shape: expected images of 12 x 12 or more, got (1, 8, 8)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_folders_of_other_runs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, message in (
        (["--resume", str(run / "digits")], "--resume: expected a folder of hat compress, got a run of hat train in"),
        ([*QUICK, "--run-dir", str(run / "digits"), "--overwrite"], "--run-dir: expected a folder of hat compress"),
        (["--resume", str(tmp_path / "nothing")], "--resume: expected the folder of a run, got"),
        (["--resume", str(tmp_path)], "expected the config of a run, got no such file"),
    ):
        assert main(["compress", *command]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"config": {}}', '{"config": 1, "datasets": {}}'])
def test_broken_figures(run: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (run / "compression.json").write_text(content)
    assert main(["compress", "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert f"{run}/compression.json: " in error
    assert error.count("\n") == 1
