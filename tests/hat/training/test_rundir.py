"""The folder of a run: one run at a time writes to it, and only files of a run are replaced or removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hat
from hat.ownership import HOST, LOCK, owned
from hat.training.rundir import RunDir
from hat.training.written import LIST, Written

CONFIG = hat.TrainConfig(epochs=1)


@pytest.fixture(scope="module")
def stream() -> hat.data.Stream:
    return hat.data.permuted("digits", tasks=2, limit=4)


def trainer(stream: hat.data.Stream, folder: Path, **options: Any) -> hat.Trainer:
    torch.manual_seed(1)
    model = hat.HATModel(hat.models.mlp(64, (8,)))
    return hat.Trainer(model, stream, CONFIG, run_dir=folder, progress=False, **options)


@pytest.fixture(scope="module")
def finished(stream: hat.data.Stream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    trainer(stream, folder, description={"my": "run"}).run()
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def of_an_earlier_version(run: Path) -> None:
    """Make a run as earlier versions left it, with pictures."""
    (run / LIST).unlink()
    (run / "config.json").write_text('{"stream": {}, "network": {}, "gates": {}, "training": {}}')
    (run / "result.json").write_text('{"learned": [], "now": [], "references": {}, "random": []}')
    (run / "plots").mkdir()
    (run / "plots" / "capacity.png").write_bytes(b"\x89PNG")


# ---------------------------------------------------------------- one owner


def test_two_runs_of_one_process_in_one_folder(stream: hat.data.Stream, tmp_path: Path) -> None:
    refused = 0

    def another(model: hat.HATModel, row: dict[str, Any]) -> dict[str, float]:
        nonlocal refused
        for options in ({}, {"overwrite": True}, {"resume": True})[: 3 if model.tasks else 2]:
            with pytest.raises(ValueError, match=rf"{os.getpid()} \(this process\) on {HOST}"):
                trainer(stream, tmp_path / "run").run(**options)
            refused += 1
        return {}

    trainer(stream, tmp_path / "run", after_epoch=another).run()
    assert refused == 5
    assert not (tmp_path / "run" / LOCK).exists()
    trainer(stream, tmp_path / "run").run(overwrite=True)


def test_one_trainer_in_two_threads(stream: hat.data.Stream, tmp_path: Path) -> None:
    errors = []

    def again(model: hat.HATModel, row: dict[str, Any]) -> dict[str, float]:
        def run() -> None:
            with pytest.raises(ValueError, match="expected a folder that no other run writes to") as error:
                first.run(overwrite=True)
            errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return {}

    first = trainer(stream[:1], tmp_path, after_epoch=again)
    first.run()
    assert len(errors) == 1


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_a_folder_of_a_living_process(stream: hat.data.Stream, run: Path, options: dict[str, bool]) -> None:
    facts = {"host": HOST, "process": os.getppid(), "started": None, "key": "0"}
    (run / LOCK).write_text(json.dumps(facts))
    before = contents(run)
    with pytest.raises(ValueError, match=rf"{run}: expected .*, got one in use by process {os.getppid()} on {HOST}"):
        trainer(stream, run).run(**options)
    assert contents(run) == before
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (run / LOCK).write_text(json.dumps({**facts, "process": process.pid}))
    trainer(stream, run, description={"my": "run"}).run(**options or {"overwrite": True})
    assert not (run / LOCK).exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_lock_goes_with_an_error(stream: hat.data.Stream, tmp_path: Path, error: type[BaseException]) -> None:
    def fail(model: hat.HATModel, row: dict[str, Any]) -> dict[str, float]:
        assert (tmp_path / LOCK).exists()
        if row["lesson"] == stream[1].name:
            raise error
        return {}

    with pytest.raises(error):
        trainer(stream, tmp_path, after_epoch=fail).run()
    assert not (tmp_path / LOCK).exists()
    trainer(stream, tmp_path).run(resume=True)


def test_a_run_whose_folder_was_taken_over_writes_no_more(stream: hat.data.Stream, tmp_path: Path) -> None:
    """As by another machine, after a day without a sign of life."""

    def take(model: hat.HATModel, row: dict[str, Any]) -> dict[str, float]:
        (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere", "process": 1, "started": None, "key": "0"}))
        return {}

    with pytest.raises(ValueError, match="got one taken over by process 1 on elsewhere"):
        trainer(stream, tmp_path, after_epoch=take).run()
    assert set(contents(tmp_path)) == {LOCK}


def test_resume_of_nothing_makes_no_folder(stream: hat.data.Stream, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the checkpoint of a run, got no such file"):
        trainer(stream, tmp_path / "none").run(resume=True)
    assert not (tmp_path / "none").exists()


# ---------------------------------------------------------------- only our own files


@pytest.mark.parametrize("path", ["", "a\0b", b"run", 3, True, ["run"], None])
def test_a_path_that_is_none(path: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^run_dir: expected a path"):
        RunDir(path)


def test_overwriting_removes_the_files_of_the_run_and_no_other(stream: hat.data.Stream, run: Path) -> None:
    for name in ("plots/figure.png", "logits/notes.txt", "logits/task-9999.pt", "thesis.txt", "result.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    RunDir(run).claim("plots/capacity.png").write_bytes(b"")
    trainer(stream[:1], run).run(overwrite=True)
    after = contents(run)
    ours = {"checkpoint.pt", "metrics.jsonl", "accuracy.csv", "logits/task-0000.pt", LIST}
    mine = {"plots/figure.png", "logits/notes.txt", "logits/task-9999.pt", "thesis.txt", "result.json"}
    assert set(after) == ours | mine
    assert {after[name] for name in mine} == {b"mine"}
    assert Written(run).names() == ours - {LIST}


@pytest.mark.parametrize("name", ["checkpoint.pt", "metrics.jsonl", "accuracy.csv", "logits/task-0001.pt", LIST])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_of_somebody_else_is_never_replaced(
    stream: hat.data.Stream, tmp_path: Path, name: str, overwrite: bool
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=r"expected no file or a file that hat has written|the results of one"):
        trainer(stream, tmp_path).run(overwrite=overwrite)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_config_of_somebody_else(stream: hat.data.Stream, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"my": 1}')
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"config\.json: expected no file or a file that hat has written"):
        trainer(stream, tmp_path, description={"a": 1}).run(overwrite=True)
    trainer(stream, tmp_path).run()  # writes no config
    assert (tmp_path / "config.json").read_text() == '{"my": 1}'


def test_a_file_in_the_place_of_a_folder(stream: hat.data.Stream, tmp_path: Path) -> None:
    (tmp_path / "logits").write_text("mine")
    with pytest.raises(ValueError, match="logits: expected a folder, got a file"):
        trainer(stream, tmp_path).run()
    assert contents(tmp_path) == {"logits": b"mine"}


def test_a_list_that_is_left_when_the_run_is_gone(stream: hat.data.Stream, run: Path) -> None:
    """As after `rm run/*`."""
    for name in contents(run).keys() - {LIST}:
        (run / name).unlink()
    (run / "config.json").write_text('{"my": 1}')
    with pytest.raises(ValueError, match=r"config\.json: expected no file or a file that hat has written"):
        trainer(stream, run, description={"my": "run"}).run(overwrite=True)
    trainer(stream, run).run(overwrite=True)
    assert (run / "config.json").read_text() == '{"my": 1}'
    assert "config.json" not in Written(run).names()


def test_a_list_that_names_files_outside(stream: hat.data.Stream, run: Path) -> None:
    (run.parent / "mine.txt").write_text("mine")
    with open(run / LIST, "a") as file:
        file.write(f"\n../mine.txt\n{run.parent / 'mine.txt'}\n.\n..\nplots/../../mine.txt\n")
    trainer(stream, run).run(overwrite=True)
    assert (run.parent / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["checkpoint.pt", "metrics.jsonl", "logits", "config.json"])
def test_a_link_in_the_folder_is_not_followed(stream: hat.data.Stream, run: Path, name: str) -> None:
    """Even if a file of a run is behind it."""
    outside = run.parent / "outside"
    (run / name).rename(outside)
    (run / name).symlink_to(outside)
    before = contents(run.parent)
    with pytest.raises(ValueError, match=rf"{name}: expected a place inside of the folder of the run, got a link"):
        trainer(stream, run, description={"my": "run"}).run(overwrite=True)
    assert contents(run.parent) == before
    trainer(stream, run, description={"my": "run"}).run(resume=True)  # goes on where the user has put it


def test_pictures_behind_a_link_stay(stream: hat.data.Stream, run: Path) -> None:
    outside = run.parent / "outside"
    outside.mkdir()
    (outside / "capacity.png").write_text("mine")
    RunDir(run).claim("plots/capacity.png").write_bytes(b"")
    shutil.rmtree(run / "plots")
    (run / "plots").symlink_to(outside)
    trainer(stream, run).run(overwrite=True)
    assert contents(outside) == {"capacity.png": b"mine"}
    with pytest.raises(ValueError, match=r"plots/capacity\.png: expected no file or a file that hat has written"):
        RunDir(run).claim("plots/capacity.png")


def test_a_folder_that_is_a_link_is_that_folder(stream: hat.data.Stream, run: Path) -> None:
    link = run.parent / "link"
    link.symlink_to(run)
    trainer(stream[:1], link).run(overwrite=True)
    assert (run / "metrics.jsonl").read_text().count("\n") == 1
    with owned(run), pytest.raises(ValueError, match="no other run writes to"):
        trainer(stream, link).run(overwrite=True)


def test_a_run_of_an_earlier_version_is_overwritten(stream: hat.data.Stream, run: Path) -> None:
    of_an_earlier_version(run)
    for name in ("plots/figure.png", "logits/task-0003.pt", "logits/notes.txt"):
        (run / name).write_text("mine")
    with pytest.raises(ValueError, match="got a run that can be resumed or overwritten"):
        trainer(stream, run).run()
    trainer(stream[:1], run).run(overwrite=True)
    ours = {"checkpoint.pt", "metrics.jsonl", "accuracy.csv", "logits/task-0000.pt", LIST}
    assert set(contents(run)) == ours | {"plots/figure.png", "logits/task-0003.pt", "logits/notes.txt"}


def test_a_run_of_an_earlier_version_is_resumed_and_then_overwritten(stream: hat.data.Stream, run: Path) -> None:
    of_an_earlier_version(run)
    trainer(stream, run).run(resume=True)
    assert {"plots/capacity.png", "result.json", "config.json", "logits/task-0001.pt"} <= Written(run).names()
    trainer(stream[:1], run).run(overwrite=True)
    assert set(contents(run)) == {"checkpoint.pt", "metrics.jsonl", "accuracy.csv", "logits/task-0000.pt", LIST}


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run / "result.json").write_text("mine"),
        lambda run: (run / "config.json").write_text('{"my": 1}'),
        lambda run: (run / "checkpoint.pt").unlink(),
    ],
)
def test_what_an_earlier_version_did_not_write_stays(
    stream: hat.data.Stream, run: Path, damage: Callable[[Path], object]
) -> None:
    of_an_earlier_version(run)
    damage(run)
    mine = {name: text for name, text in contents(run).items() if text in (b"mine", b'{"my": 1}')}
    trainer(stream, run).run(overwrite=True)
    assert mine.items() <= contents(run).items()


def test_a_damaged_checkpoint_of_an_earlier_version_can_be_overwritten(stream: hat.data.Stream, run: Path) -> None:
    of_an_earlier_version(run)
    (run / "checkpoint.pt").write_bytes(b"damaged")
    trainer(stream, run).run(overwrite=True)
    RunDir(run).load()


def test_a_run_that_cannot_begin_leaves_the_old_one(stream: hat.data.Stream, run: Path) -> None:
    before = contents(run)

    def fail(model: hat.HATModel, row: dict[str, Any]) -> dict[str, float]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        trainer(stream, run, after_epoch=fail).run(overwrite=True)
    assert contents(run) == before


def test_pictures_carry_a_mark_by_which_they_are_known(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "plots").mkdir()
    hat.plots.save(hat.plots.capacity(torch.rand(2, 1), ["axis"]), tmp_path / "plots" / "mine.png")
    shutil.copy(tmp_path / "plots" / "mine.png", tmp_path / "plots" / "capacity.png")
    (tmp_path / "plots" / "overlap.png").write_bytes(b"\x89PNG")
    assert Written(tmp_path).names() == {"plots/mine.png", "plots/capacity.png"}
