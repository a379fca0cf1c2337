"""An interrupted run and an uninterrupted one end with equal bits."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import hat
from hat.checkpoint import CheckpointError
from hat.training.fit import Fit
from hat.training.rundir import RunDir

CONFIG = hat.TrainConfig(epochs=3, lr_patience=1, momentum=0.9, weight_decay=1e-4)


def make_model() -> hat.HATModel:
    torch.manual_seed(1)
    return hat.HATModel(hat.models.mlp(64, (32, 24)))


@pytest.fixture(scope="module")
def stream() -> hat.data.Stream:
    return hat.data.permuted("digits", tasks=2, limit=20)


class Interrupted(Exception):
    pass


def run_interrupted(stream: hat.data.Stream, folder: Path, config: hat.TrainConfig, after: int, where: str) -> None:
    """Train and stop in the middle of an epoch, or after saving one, `after` epochs in."""
    trainer = hat.Trainer(make_model(), stream, config, run_dir=folder, progress=False)
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


@pytest.mark.parametrize("where", ["before", "unsaved"])
@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_resumed_run_ends_with_equal_bits(stream: hat.data.Stream, tmp_path: Path, after: int, where: str) -> None:
    whole = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path / "whole", progress=False)
    whole.run()
    run_interrupted(stream, tmp_path / "cut", CONFIG, after, where)
    torch.manual_seed(999)
    resumed = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path / "cut", progress=False)
    resumed.run(resume=True)
    assert_equal(whole, resumed)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_resumed_run_of_a_guarded_optimizer(stream: hat.data.Stream, tmp_path: Path, optimizer: str) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer, lr=0.002)
    whole = hat.Trainer(make_model(), stream, config, run_dir=tmp_path / "whole", progress=False)
    whole.run()
    run_interrupted(stream, tmp_path / "cut", config, 4, "before")
    resumed = hat.Trainer(make_model(), stream, config, run_dir=tmp_path / "cut", progress=False)
    resumed.run(resume=True)
    assert_equal(whole, resumed)


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


def test_killed_process_resumes_exactly(tmp_path: Path) -> None:
    """kill -9 at some moment of a real run on the command line, then --resume."""
    options = ["--tasks", "2", "--limit", "20", "--hidden", "32", "--epochs", "6", "--momentum", "0.9", "--quiet"]
    command = [sys.executable, "-m", "hat", "train"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*command, *options, "--run-dir", str(whole)], check=True, capture_output=True)
    process = subprocess.Popen([*command, *options, "--run-dir", str(cut)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    metrics = cut / "metrics.jsonl"
    while time.monotonic() < deadline and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)
    subprocess.run([*command, "--resume", str(cut), "--quiet"], check=True, capture_output=True)
    one, two = (RunDir(folder).load() for folder in (whole, cut))
    assert one["model"].keys() == two["model"].keys()
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
    assert (whole / "accuracy.csv").read_text() == (cut / "accuracy.csv").read_text()


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
