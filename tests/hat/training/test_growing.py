"""Runs whose model grows before a task for which it has too few free units."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import hat
from hat.cli import main
from hat.training.growth import units_needed
from hat.training.history import History
from hat.training.rundir import RunDir

CONFIG = hat.TrainConfig(epochs=3, batch_size=32, momentum=0.9, lamb=0.1)


def make_model(units: int = 12) -> hat.HATModel:
    torch.manual_seed(2)
    return hat.HATModel(hat.models.mlp(64, (units, units)))


@pytest.fixture(scope="module")
def stream() -> hat.data.Stream:
    return hat.data.split("digits", classes_per_task=2, tasks=5, limit=20)


def test_a_network_grows_before_it_is_full(stream: hat.data.Stream) -> None:
    trainer = hat.Trainer(make_model(), stream, CONFIG, progress=False, grow="auto", verify=True)
    history = trainer.run().history
    assert history.growth
    for entry in history.growth:
        assert 0 < entry["task"] < len(stream)
        assert all(number > 0 for number in entry["units"].values())
        assert entry["change"] < 1e-4  # a rounding of the logits
    for name, gate in trainer.model.gates.items():
        assert gate.units == 12 + sum(entry["units"].get(name, 0) for entry in history.growth)
    assert history.largest_drift == 0
    assert all(gate.free.any() for gate in trainer.model.gates.values())


def test_units_needed_are_those_of_two_more_tasks() -> None:
    model = make_model(10)
    for used in (4, 3):  # of 10, so that 3 are free and the next task is expected to take 3.5
        model.begin_task(2)
        with torch.no_grad():
            for gate in model.gates.values():
                gate.embedding.copy_(torch.where(torch.arange(10) < gate.locked + used, 1.0, -1.0))
        model.end_task()
    assert units_needed(model) == dict.fromkeys(model.gates, 4)  # 2 * 3.5 - 3
    hat.grow(model, units_needed(model))
    assert units_needed(model) == {}


def test_a_resumed_run_ends_with_the_same_bits(stream: hat.data.Stream, tmp_path: Path) -> None:
    whole = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path / "whole", progress=False, grow="auto")
    whole.run()
    stop = whole.history.growth[-1]["task"]

    def interrupt(model: hat.HATModel, row: dict[str, object]) -> dict[str, float]:
        if model.task == stop:
            raise KeyboardInterrupt
        return {}

    broken = hat.Trainer(
        make_model(), stream, CONFIG, run_dir=tmp_path / "part", progress=False, grow="auto", after_epoch=interrupt
    )
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path / "part", progress=False, grow="auto")
    assert asdict(resumed.run(resume=True).history)["growth"] == whole.history.growth
    then = whole.model.state_dict()
    for name, values in resumed.model.state_dict().items():
        assert torch.equal(values, then[name]), name
    other = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path / "part", progress=False)
    with pytest.raises(ValueError, match="grow"):
        other.run(resume=True)


@pytest.mark.parametrize("grow", ["always", True, 1])
def test_other_ways_are_refused(grow: object, stream: hat.data.Stream) -> None:
    with pytest.raises(ValueError, match="grow: expected"):
        hat.Trainer(make_model(), stream, CONFIG, grow=grow)  # type: ignore[arg-type]


def test_the_command_line_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["train", "--stream", "split", "--dataset", "digits", "--limit", "20", "--hidden", "10", "--epochs", "3"]
    options = ["--lamb", "0.1", "--momentum", "0.9", "--grow", "auto", "--quiet", "--run-dir", str(tmp_path)]
    assert main([*run, *options]) == 0
    assert History(**RunDir(tmp_path).load()["history"]).growth
    assert main(["evaluate", str(tmp_path)]) == 0
    assert "nan" not in capsys.readouterr().out
