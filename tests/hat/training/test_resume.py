"""An interrupted run and an uninterrupted one end with equal bits."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hat
from hat.checkpoint import CheckpointError
from hat.cli import main
from hat.ownership import LOCK
from hat.training.fit import Fit
from hat.training.rundir import RunDir
from tests.hat.cut_short import cut_short

CONFIG = hat.TrainConfig(epochs=3, lr_patience=1, momentum=0.9, weight_decay=1e-4)


def make_model() -> hat.HATModel:
    torch.manual_seed(1)
    return hat.HATModel(hat.models.mlp(64, (32, 24)))


@pytest.fixture(scope="module")
def stream() -> hat.data.Stream:
    return hat.data.permuted("digits", tasks=2, limit=20)


class Interrupted(Exception):
    pass


def run_interrupted(
    stream: hat.data.Stream,
    folder: Path,
    config: hat.TrainConfig,
    after: int,
    where: str,
    make: Callable[[], hat.HATModel] = make_model,
) -> None:
    """Train and stop after `after` epochs, in the middle of an epoch or after saving one."""
    trainer = hat.Trainer(make(), stream, config, run_dir=folder, progress=False)
    count = 0
    original = Fit._epoch

    def epoch(self: Fit) -> dict[str, object]:
        nonlocal count
        if count == after and where == "before":
            torch.rand(17)  # the generator is elsewhere than at the checkpoint
            raise Interrupted
        row = original(self)
        count += 1
        if count == after + 1 and where == "unsaved":
            raise Interrupted
        return row

    Fit._epoch = epoch  # type: ignore[method-assign]
    try:
        with pytest.raises(Interrupted):
            trainer.run()
    finally:
        Fit._epoch = original  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def whole(stream: hat.data.Stream, tmp_path_factory: pytest.TempPathFactory) -> hat.Trainer:
    trainer = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path_factory.mktemp("whole"), progress=False)
    trainer.run()
    return trainer


@pytest.mark.parametrize("where", ["before", "unsaved"])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_resumed_run_ends_with_equal_bits(
    whole: hat.Trainer, stream: hat.data.Stream, tmp_path: Path, after: int, where: str
) -> None:
    run_interrupted(stream, tmp_path / "cut", CONFIG, after, where)
    torch.manual_seed(999)
    resumed = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path / "cut", progress=False)
    resumed.run(resume=True)
    assert_equal(whole, resumed)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_resumed_run_of_a_guarded_optimizer(stream: hat.data.Stream, tmp_path: Path, optimizer: str) -> None:
    momentum = 0.9 if optimizer == "rmsprop" else 0.0
    config = dataclasses.replace(CONFIG, optimizer=optimizer, lr=0.002, momentum=momentum)
    whole = hat.Trainer(make_model(), stream, config, run_dir=tmp_path / "whole", progress=False)
    whole.run()
    run_interrupted(stream, tmp_path / "cut", config, 4, "before")
    resumed = hat.Trainer(make_model(), stream, config, run_dir=tmp_path / "cut", progress=False)
    resumed.run(resume=True)
    assert_equal(whole, resumed)


CONVERTED = {
    "resnet18": lambda: hat.models.resnet18((1, 8, 8), width=2, dropout=0.1),
    "vit": lambda: hat.models.vit((1, 8, 8), features=12, depth=2, dropout=0.1, stochastic_depth=0.2),
}


@pytest.mark.filterwarnings("ignore::hat.CapacityWarning")
@pytest.mark.parametrize(("name", "after"), [("resnet18", 3), ("vit", 1)])
def test_resumed_run_of_a_converted_network(stream: hat.data.Stream, tmp_path: Path, name: str, after: int) -> None:
    """The tensors that every task has for itself, such as running statistics, are resumed too."""

    def make() -> hat.HATModel:
        torch.manual_seed(1)
        return hat.HATModel(CONVERTED[name]())

    config = dataclasses.replace(CONFIG, epochs=2)
    whole = hat.Trainer(make(), stream, config, progress=False)
    whole.run()
    run_interrupted(stream, tmp_path / "cut", config, after, "before", make)
    resumed = hat.Trainer(make(), stream, config, run_dir=tmp_path / "cut", progress=False)
    resumed.run(resume=True)
    assert_equal(whole, resumed)
    assert whole.history.largest_drift == 0


def assert_equal(whole: hat.Trainer, resumed: hat.Trainer) -> None:
    one, two = whole.model.state_dict(), resumed.model.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert whole.history.accuracy == resumed.history.accuracy
    assert whole.history.drift == resumed.history.drift
    losses = [
        [(row["task"], row["epoch"], row["loss"], row["val_loss"]) for row in t.history.epochs]
        for t in (whole, resumed)
    ]
    assert losses[0] == losses[1]


def test_killed_process_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 in the middle of an epoch of a real run on the command line, then --resume."""
    monkeypatch.setattr("hat.cli.train.plots_available", lambda: False)
    options = ["--tasks", "2", "--limit", "20", "--hidden", "32", "--epochs", "10", "--momentum", "0.9", "--quiet"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", *options, "--run-dir", str(whole)]) == 0
    process = cut_short(["train", *options, "--run-dir", str(cut)], epochs=3, by=signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, process.stderr
    killed = RunDir(cut).load()
    assert len(killed["history"]["epochs"]) == 3
    assert killed["fit"] is not None
    assert (cut / LOCK).exists()
    assert main(["train", "--resume", str(cut), "--quiet"]) == 0
    assert not (cut / LOCK).exists()
    one, two = (RunDir(folder).load() for folder in (whole, cut))
    assert one["model"].keys() == two["model"].keys()
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
    assert (whole / "accuracy.csv").read_text() == (cut / "accuracy.csv").read_text()


def test_nothing_is_saved_before_the_first_epoch_is_finished(stream: hat.data.Stream, tmp_path: Path) -> None:
    run_interrupted(stream, tmp_path, CONFIG, 0, "unsaved")
    assert list(tmp_path.iterdir()) == []
    hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path, progress=False).run()


@pytest.mark.parametrize("after", [1, 3])
def test_ctrl_c_says_what_is_saved_and_the_same_trainer_resumes(
    whole: hat.Trainer, stream: hat.data.Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    trainer = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path, progress=False)
    interrupt_in_epoch(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt, match=r"all finished epochs are saved in .*; run\(resume=True\) continues"):
        trainer.run()
    monkeypatch.undo()
    torch.manual_seed(999)
    trainer.run(resume=True)
    assert_equal(whole, trainer)


def test_ctrl_c_before_anything_is_saved(
    stream: hat.data.Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_in_epoch(monkeypatch, 0)
    for folder in (None, tmp_path):
        with pytest.raises(KeyboardInterrupt, match="nothing was saved"):
            hat.Trainer(make_model(), stream, CONFIG, run_dir=folder, progress=False).run()


def interrupt_in_epoch(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C in the middle of an epoch, after `after` finished epochs."""
    count = 0
    original = hat.training.fit.train_epoch

    def train_epoch(*arguments: object) -> object:
        nonlocal count
        loss = original(*arguments)  # type: ignore[arg-type]
        if count == after:
            raise KeyboardInterrupt
        count += 1
        return loss

    monkeypatch.setattr("hat.training.fit.train_epoch", train_epoch)


def test_ctrl_c_during_a_save_waits_for_its_end(stream: hat.data.Stream, tmp_path: Path) -> None:
    """The first save writes checkpoint, metrics and config together: all files or none."""

    class Folder(RunDir):
        def write_config(self, config: dict[str, object]) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            super().write_config(config)

    trainer = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path, description={"my": "run"}, progress=False)
    trainer.run_dir = Folder(tmp_path)
    with pytest.raises(KeyboardInterrupt, match="all finished epochs are saved"):
        trainer.run()
    assert RunDir(tmp_path).read_config() == {"my": "run"}
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_run_directory_of_another_run_is_refused_then_replaced(stream: hat.data.Stream, tmp_path: Path) -> None:
    old = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path, description={"old": 1}, progress=False)
    old.run()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    one = stream[:1]
    with pytest.raises(ValueError, match="expected a folder without a run"):
        hat.Trainer(make_model(), one, CONFIG, run_dir=tmp_path, progress=False).run()
    with pytest.raises(ValueError, match="overwrite: expected False when a run is resumed"):
        hat.Trainer(make_model(), one, CONFIG, run_dir=tmp_path, progress=False).run(resume=True, overwrite=True)
    run = hat.Trainer(make_model(), one, dataclasses.replace(CONFIG, lr=1e30), run_dir=tmp_path, progress=False)
    with pytest.raises(ArithmeticError):
        run.run(overwrite=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    (tmp_path / "thesis.txt").write_text("mine")
    hat.Trainer(make_model(), one, CONFIG, run_dir=tmp_path, progress=False).run(overwrite=True)
    assert [file.name for file in (tmp_path / "logits").iterdir()] == ["task-0000.pt"]
    assert not (tmp_path / "config.json").exists()
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_results_without_a_checkpoint_are_not_replaced(stream: hat.data.Stream, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a folder without a run, got the results of one"):
        hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path, progress=False).run()


def test_run_directory_that_cannot_be_written_is_found_at_once(stream: hat.data.Stream, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r": expected a folder to write to, got .*file"):
        hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path / "file", progress=False).run()


def test_resume_refuses_another_config(stream: hat.data.Stream, tmp_path: Path) -> None:
    run_interrupted(stream, tmp_path, CONFIG, 1, "before")
    other = hat.Trainer(make_model(), stream, dataclasses.replace(CONFIG, lr=0.5), run_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"lr: expected 0\.05 as in the checkpoint, got 0\.5"):
        other.run(resume=True)


def test_resume_refuses_a_truncated_checkpoint(stream: hat.data.Stream, tmp_path: Path) -> None:
    run_interrupted(stream, tmp_path, CONFIG, 1, "before")
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-1000])
    trainer = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path, progress=False)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        trainer.run(resume=True)


def test_resume_needs_a_run_directory(stream: hat.data.Stream) -> None:
    with pytest.raises(ValueError, match="expected a run directory"):
        hat.Trainer(make_model(), stream, CONFIG, progress=False).run(resume=True)


def other_gates() -> hat.HATModel:
    torch.manual_seed(1)
    return hat.HATModel(hat.models.mlp(64, (32, 24)), config=hat.GateConfig(s_max=50.0))


def other_dropout() -> hat.HATModel:
    torch.manual_seed(1)
    return hat.HATModel(hat.models.mlp(64, (32, 24), dropout=0.1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_gates, r"checkpoint\.pt: s_max: expected 400\.0 as in the checkpoint, got 50\.0$"),
        (
            other_dropout,
            r"checkpoint\.pt: model: expected the network of the checkpoint, got a network of other layers$",
        ),
    ],
)
def test_resume_refuses_another_model(
    stream: hat.data.Stream, tmp_path: Path, make: Callable[[], hat.HATModel], message: str
) -> None:
    run_interrupted(stream, tmp_path, CONFIG, 1, "before")
    with pytest.raises(ValueError, match=message):
        hat.Trainer(make(), stream, CONFIG, run_dir=tmp_path, progress=False).run(resume=True)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: hat.data.permuted("digits", tasks=3, limit=20),
            r"checkpoint\.pt: stream: expected 2 tasks as in the checkpoint, got 3$",
        ),
        (
            lambda: hat.data.split("digits", 5, limit=20),
            r"checkpoint\.pt: stream: expected permuted digits 0 as in the checkpoint as name of task 0, "
            r"got split digits 0$",
        ),
        (
            lambda: hat.data.permuted("digits", tasks=2, limit=20, seed=1),
            r"checkpoint\.pt: stream: expected the train data of the checkpoint in task 0, got other data$",
        ),
        (
            lambda: hat.data.permuted("digits", tasks=2, limit=20, size=(8, 8), validation=0.3),
            r"checkpoint\.pt: stream: expected the train data of the checkpoint in task 0",
        ),
    ],
)
def test_resume_refuses_another_stream(
    stream: hat.data.Stream, tmp_path: Path, other: Callable[[], hat.data.Stream], message: str
) -> None:
    run_interrupted(stream, tmp_path, CONFIG, 1, "before")
    with pytest.raises(ValueError, match=message):
        hat.Trainer(make_model(), other(), CONFIG, run_dir=tmp_path, progress=False).run(resume=True)


def test_resume_notices_one_other_image(stream: hat.data.Stream, tmp_path: Path) -> None:
    run_interrupted(stream, tmp_path, CONFIG, 1, "before")
    images = stream[0].train.x.clone()
    images[3] = images[4]
    task = dataclasses.replace(stream[0], train=hat.data.Part(images, stream[0].train.y))
    with pytest.raises(ValueError, match="expected the train data of the checkpoint in task 0"):
        hat.Trainer(make_model(), [task, stream[1]], CONFIG, run_dir=tmp_path, progress=False).run(resume=True)
