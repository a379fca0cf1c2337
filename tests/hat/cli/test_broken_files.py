"""A run folder with a damaged file: the error is one line that names the file, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hat
from hat.cli import main
from hat.training.rundir import RunDir

pytestmark = pytest.mark.usefixtures("unpainted")

QUICK = ["--tasks", "2", "--limit", "20", "--hidden", "32", "--epochs", "2", "--quiet"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"hat {arguments[0]}: error: ")
    assert error.count("\n") == 1
    assert len(error) < 1200
    return error


def edit_checkpoint(run: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    payload = hat.checkpoint.load(run / "checkpoint.pt")
    edit(payload)
    hat.checkpoint.save(run / "checkpoint.pt", payload)


def edit_config(run: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((run / "config.json").read_text())
    edit(config)
    (run / "config.json").write_text(json.dumps(config))


COMMANDS = (["evaluate"], ["train", "--resume"])


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: p.clear(),
        lambda p: p.update(weights=p.pop("model")),
        lambda p: p.pop("random"),
        lambda p: p["random"].update(cpu=3),
        lambda p: p["history"].update(accuracy=None),
        lambda p: p["history"].update(accuracy=[[0.5]]),
        lambda p: p["history"].update(names=["a", 2]),
        lambda p: p["history"].pop("drift"),
        lambda p: p["history"].pop("growth"),
        lambda p: p["identity"].pop("grow"),
        lambda p: p["history"]["capacity"].pop(),
        lambda p: p["identity"].update(tasks=[1]),
        lambda p: p["identity"].pop("gates"),
        lambda p: p.update(seconds="long"),
        lambda p: p.update(fit=[1]),
        lambda p: p.update(fit={"optimizer": {}}),
    ],
)
def test_foreign_checkpoint(run: Path, capsys: pytest.CaptureFixture[str], edit: Callable[..., object]) -> None:
    edit_checkpoint(run, edit)
    for command in (*COMMANDS, ["report"]):
        assert f"{run}/checkpoint.pt: " in refused(capsys, *command, str(run))


def test_run_of_another_network(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a version that builds a network of the same options from other layers."""
    edit_checkpoint(run, lambda p: p["identity"].update(network="HATModel: Sequential()"))
    for command in (*COMMANDS, ["report"]):
        assert "a network of other layers" in refused(capsys, *command, str(run))


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: p["model"].pop("heads.0.bias"),
        lambda p: p["model"].update({"heads.0.bias": torch.zeros(3)}),
        lambda p: p["model"].update({"_extra_state": torch.zeros(3, dtype=torch.uint8)}),
        lambda p: p.update(model={"a": 1}),
    ],
)
def test_model_that_does_not_fit(run: Path, capsys: pytest.CaptureFixture[str], edit: Callable[..., object]) -> None:
    edit_checkpoint(run, edit)
    for command in (*COMMANDS, ["report"]):
        assert f"{run}/checkpoint.pt: expected" in refused(capsys, *command, str(run))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(training=[1]), "training: expected a JSON object, got list"),
        (lambda c: c["training"].pop("lr"), "training: expected"),
        (lambda c: c["training"].update(zzz=1), "unknown: zzz"),
        (lambda c: c["training"].update(lr="high"), "training: lr: expected a finite number > 0, got 'high'"),
        (lambda c: c["training"].update(device="cuda:77"), "device: expected one that this machine has"),
        (lambda c: c["gates"].update(s_max="high"), "gates: "),
        (lambda c: c["gates"].pop("fold"), "missing: fold"),
        (lambda c: c.pop("grow"), "missing: grow"),
        (lambda c: c["network"].update(network="resnet"), "network: expected one of"),
        (lambda c: c["stream"].update(stream="foo"), "stream: expected one of"),
        (lambda c: c.pop("references"), "missing: references"),
        (lambda c: c.update(references="joint"), "references: expected a list"),
        (lambda c: c.update(references=["magic"]), "reference: expected one of"),
    ],
)
def test_config_edited_by_hand(
    run: Path, capsys: pytest.CaptureFixture[str], edit: Callable[..., object], message: str
) -> None:
    edit_config(run, edit)
    for command in (*COMMANDS, *([] if "device" in message else [["report"]])):  # which computes nothing
        error = refused(capsys, *command, str(run))
        assert f"{run}/config.json: " in error
        assert message in error


def test_config_of_a_version_without_a_limit_for_data(run: Path, unpainted: None) -> None:
    edit_config(run, lambda c: c["stream"].pop("max_gib"))
    assert main(["report", str(run)]) == 0


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["stream"].update(tasks=1), "stream: expected 2 tasks as in the checkpoint, got 1"),
        (lambda c: c["stream"].update(seed=7), "expected the train data of the checkpoint"),
        (lambda c: c["training"].update(lr=0.1), "lr: expected 0.05 as in the checkpoint, got 0.1"),
        (lambda c: c["network"].update(hidden=[31]), "model: expected the network of the checkpoint"),
        (lambda c: c["gates"].update(s_max=50.0), "s_max: expected 400.0 as in the checkpoint, got 50.0"),
    ],
)
def test_config_of_another_run(
    run: Path, capsys: pytest.CaptureFixture[str], edit: Callable[..., object], message: str
) -> None:
    edit_config(run, edit)
    for command in COMMANDS:
        assert message in refused(capsys, *command, str(run))


@pytest.mark.parametrize("content", [{}, {"logits": [1]}, {"logits": torch.zeros(3, 10)}])
def test_foreign_logits(run: Path, capsys: pytest.CaptureFixture[str], content: dict[str, object]) -> None:
    hat.checkpoint.save(run / "logits" / "task-0001.pt", content)
    for command in COMMANDS:
        assert f"{run}/logits/task-0001.pt: " in refused(capsys, *command, str(run))


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"references": {"joint": [2]}, "random": [0.1, 0.1]}'])
def test_report_rebuilds_a_broken_result(run: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (run / "result.json").write_text(content)
    assert main(["report", str(run)]) == 0
    printed = capsys.readouterr()
    assert "average accuracy" in printed.out
    assert f"hat report: warning: {run}/result.json: " in printed.err


def test_unexpected_error_is_one_line_too(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: RunDir) -> dict[str, Any]:
        raise KeyError("first line\nsecond line")

    monkeypatch.setattr(RunDir, "load", load)
    assert "KeyError" in refused(capsys, "report", str(run))
    with pytest.raises(KeyError):
        main(["report", str(run), "--traceback"])


def test_number_too_large_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, "train", *QUICK, "--hidden", "99999999999999999999", "--run-dir", str(tmp_path / "run"))


def test_device_that_is_not_there_can_be_replaced(run: Path) -> None:
    edit_config(run, lambda c: c["training"].update(device="cuda:77"))
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    assert main(["train", "--resume", str(run), "--device", "cpu", "--quiet"]) == 0


def test_a_finished_task_that_has_drifted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table comes first. Then the command ends with status 2, and names the tensor."""
    name = "body.network.linear1.weight"
    edit_checkpoint(run, lambda payload: payload["model"][name].mul_(1.5))
    with pytest.warns(hat.DriftWarning, match=name):
        error = refused(capsys, "evaluate", str(run))
    assert error.endswith(f"parameter {name} has moved since it was locked\n")
