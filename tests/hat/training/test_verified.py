"""Runs that check after every task that nothing was forgotten, and runs in which a user forgets a task."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import hat
from hat.cli import main
from hat.cli.specfile import read_spec
from hat.training import PlainModel
from hat.training.rundir import RunDir

CONFIG = hat.TrainConfig(epochs=2, batch_size=32)
QUICK = ["--tasks", "3", "--limit", "20", "--hidden", "16", "--epochs", "1", "--quiet"]


def make_model(kind: type[hat.HATModel] = hat.HATModel, **gates: object) -> hat.HATModel:
    torch.manual_seed(1)
    return kind(hat.models.mlp(64, (24,)), config=hat.GateConfig(**gates))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stream() -> hat.data.Stream:
    return hat.data.split("digits", classes_per_task=2, tasks=3, limit=30)


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_task_is_verified_and_the_bits_are_the_same(stream: hat.data.Stream, tmp_path: Path) -> None:
    plain = hat.Trainer(make_model(), stream, CONFIG, progress=False)
    plain.run()
    trainer = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path, progress=False, verify=True)
    trainer.run()
    found = [(row["epoch"], row.get("verified_drift"), row.get("verified_moved", "-")) for row in rows(tmp_path)]
    assert found == [(1, None, "-"), (2, 0.0, None)] * 3
    then = plain.model.state_dict()
    assert all(torch.equal(values, then[name]) for name, values in trainer.model.state_dict().items())


def test_what_forgets_is_stopped_after_the_save(stream: hat.data.Stream, tmp_path: Path) -> None:
    trainer = hat.Trainer(make_model(PlainModel), stream, CONFIG, run_dir=tmp_path, progress=False, verify=True)
    with pytest.raises(
        hat.ForgettingError, match=r"^verify: expected nothing to move in task 1, got largest "
    ) as error:
        trainer.run()
    assert error.value.verification.largest > 0
    assert rows(tmp_path)[-1]["verified_drift"] == error.value.verification.largest
    assert trainer.model.tasks == 2
    again = hat.Trainer(make_model(PlainModel), stream, CONFIG, run_dir=tmp_path, progress=False)
    assert len(again.run(resume=True).history.names) == 3


def test_masks_that_are_soft_are_refused(stream: hat.data.Stream) -> None:
    with pytest.raises(ValueError, match=r"^verify: expected False in mode 'published', as weights move, got True$"):
        hat.Trainer(make_model(mask_mode="published"), stream, CONFIG, verify=True)


@pytest.mark.parametrize("stop", ["in a task", "between tasks"])
def test_a_resumed_run_verifies_what_it_has_loaded(
    stream: hat.data.Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    whole = hat.Trainer(make_model(), stream, CONFIG, progress=False)
    whole.run()
    trainer = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path, progress=False, verify=True)
    saves, save = [], trainer._save

    def save_and_stop() -> None:
        save()
        saves.append(1)
        if len(saves) == (4 if stop == "in a task" else 6):
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    again = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path, progress=False, verify=True)
    result = again.run(resume=True)
    assert [row["verified_drift"] for row in result.history.epochs if "verified_drift" in row] == [0.0] * 3
    then = whole.model.state_dict()
    assert all(torch.equal(values, then[name]) for name, values in again.model.state_dict().items())


def forget_in(folder: Path, task: int) -> None:
    """Forget a task in the checkpoint of a run, as a user would do it."""
    saved = hat.checkpoint.load(folder / "checkpoint.pt")
    width = saved["model"]["heads.0.weight"].shape[1]
    model = hat.HATModel(hat.models.mlp(64, (width,)))
    model.load_state_dict(saved["model"])
    hat.forget(model, task)
    hat.checkpoint.save(folder / "checkpoint.pt", {**saved, "model": model.state_dict()})
    (folder / "logits" / f"task-{task:04d}.pt").unlink()


@pytest.mark.parametrize("verify", [True, False])
def test_a_run_goes_on_after_a_task_was_forgotten(stream: hat.data.Stream, tmp_path: Path, verify: bool) -> None:
    first = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path, progress=False)
    learn = first._learn_task
    first._learn_task = lambda: learn() if first.model.tasks < 2 else (_ for _ in ()).throw(KeyboardInterrupt())  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.run()
    forget_in(tmp_path, 0)
    trainer = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path, verify=verify)
    history = trainer.run(resume=True).history
    assert trainer.model.remembered == (1, 2)
    assert math.isnan(history.accuracy[2][0])
    assert math.isnan(history.drift[2][0])
    assert history.kept == [1, 2]
    assert history.largest_drift == 0
    assert "mean of 2 " in history.last_line(3, 2)
    matrix = history.matrix[history.kept][:, history.kept]
    assert hat.metrics.average_accuracy(matrix) == pytest.approx(sum(history.accuracy[2][1:]) / 2)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr("hat.cli.train.plots_available", lambda: False)  # `report` draws
    assert main(["train", *QUICK, "--verify", "--reference", "joint", "--run-dir", str(folder)]) == 0
    assert [row["verified_moved"] for row in rows(folder)] == [None] * 3
    assert read_spec(RunDir(folder)).verify
    forget_in(folder, 1)
    assert main(["train", "--resume", str(folder), "--verify", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(folder)]) == 0
    shown = capsys.readouterr().out
    names = hat.checkpoint.load(folder / "checkpoint.pt")["history"]["names"]
    assert "largest logit drift 0" in shown
    assert [name in shown for name in names] == [True, False, True]
    assert main(["evaluate", str(folder), "--task", "1"]) == 2
    assert "--task: expected a task that is not forgotten, got 1" in capsys.readouterr().err
    saved = hat.checkpoint.load(folder / "checkpoint.pt")
    saved["history"]["accuracy"][2][1] = saved["history"]["drift"][2][1] = math.nan  # as of a task that came later
    hat.checkpoint.save(folder / "checkpoint.pt", saved)
    assert main(["report", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert [name in shown for name in names] == [True, False, True]
    assert "forgetting ratio" in shown
    assert "joint" in shown
