"""`hat export`: the task of a run as files that work without this package; errors in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import hat
from hat.cli import export, main
from hat.cli.stored import open_run

QUICK = ["--tasks", "2", "--limit", "20", "--hidden", "24", "16", "--epochs", "2", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quick"
    assert main(["train", *QUICK, "--run-dir", str(folder)]) == 0
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert main(["export", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hat export: error: ")
    assert error.count("\n") == 1
    return error


def test_a_task(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--task", "1"]) == 0
    folder = run / "export" / "task-1"
    assert {file.name for file in folder.iterdir()} == {"network.pt2", "weights.safetensors", "export.json"}
    stored = open_run(run)
    x = stored.stream[1].test[:5][0]
    expected = stored.model.eval()(x, task=1)
    found = torch.export.load(folder / "network.pt2").module()(x)  # of more images than it was written with
    torch.testing.assert_close(found, expected)
    facts = json.loads((folder / "export.json").read_text())
    used = {name: int(gate.masks[1].sum()) for name, gate in stored.model.gates.items()}
    assert {name: units["kept"] for name, units in facts["units"].items()} == used
    assert {name: units["of"] for name, units in facts["units"].items()} == {"gates.linear1": 24, "gates.linear2": 16}
    one, two = used.values()
    assert facts["parameters"]["kept"] == 65 * one + (one + 1) * two + (two + 1) * 10
    assert facts["parameters"]["of"] == 65 * 24 + 25 * 16 + 17 * 10
    assert facts["input_shape"] == [1, 8, 8]
    (task,) = facts["tasks"]
    assert (task["task"], task["name"], task["classes"]) == (1, "permuted digits 1", [str(n) for n in range(10)])
    assert task["accuracy"] == task["accuracy_exported"] == stored.history.accuracy[1][1]
    assert task["images"] == len(stored.stream[1].test)
    printed = capsys.readouterr().out
    assert ["gates.linear1", str(one), "24", f"{one / 24:.1%}"] in map(str.split, printed.splitlines())
    for text in ("permuted digits 1", "written to"):
        assert text in printed


def test_weights_fit_an_exported_network(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_model

    assert (
        main(["export", str(run), "--task", "0", "--format", "safetensors", "--to", str(tmp_path / "to" / "here")]) == 0
    )
    assert {file.name for file in (tmp_path / "to" / "here").iterdir()} == {"weights.safetensors", "export.json"}
    stored = open_run(run)
    network, x = hat.export(stored.model, task=0), stored.stream[0].test[:5][0]
    expected = network(x)
    with torch.no_grad():
        for values in network.parameters():
            values.zero_()
    load_model(network, tmp_path / "to" / "here" / "weights.safetensors")
    assert torch.equal(network(x), expected)


def test_several_tasks(run: Path) -> None:
    assert main(["export", str(run), "--task", "1", "--task", "0", "--format", "pt2"]) == 0
    folder = run / "export" / "task-1-0"
    assert {file.name for file in folder.iterdir()} == {"network-0.pt2", "network-1.pt2", "export.json"}
    stored = open_run(run)
    for task in range(2):
        x = stored.stream[task].test[:5][0]
        program = torch.export.load(folder / f"network-{task}.pt2").module()
        torch.testing.assert_close(program(x, task=task), stored.model.eval()(x, task=task))
    facts = json.loads((folder / "export.json").read_text())
    assert [task["task"] for task in facts["tasks"]] == [1, 0]
    used = [int(gate.masks[:2].amax(0).sum()) for gate in stored.model.gates.values()]
    assert [units["kept"] for units in facts["units"].values()] == used


def test_onnx(run: Path, tmp_path: Path) -> None:
    import onnxruntime

    assert main(["export", str(run), "--task", "1", "--format", "onnx", "--to", str(tmp_path)]) == 0
    stored = open_run(run)
    x = stored.stream[1].test[:5][0]  # of another number of images than it was written with
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), stored.model.eval()(x, task=1), rtol=1e-4, atol=1e-5)


def test_wrong_input(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--task: expected finished tasks, 0 to 1, got 2" in refused(capsys, run, "--task", 2)
    assert "--task: expected finished tasks, 0 to 1, got -1" in refused(capsys, run, "--task=-1")
    assert "--task: expected every task once, got 1 1" in refused(capsys, run, "--task", 1, "--task", 1)
    assert "RUN_DIR: expected the folder of a run" in refused(capsys, tmp_path / "none", "--task", 0)
    assert "config.json" in refused(capsys, tmp_path, "--task", 0)
    (tmp_path / "file").write_text("")
    assert "file" in refused(capsys, run, "--task", 0, "--to", tmp_path / "file")
    with pytest.raises(SystemExit):
        main(["export", str(run)])
    assert "--task" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", str(run), "--task", "0", "--format", "pickle"])
    assert "--format" in capsys.readouterr().err


@pytest.mark.parametrize(("package", "kind"), [("onnx", "onnx"), ("safetensors", "safetensors")])
def test_a_package_that_is_missing(
    run: Path, package: str, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = export.importlib.util.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == package else find(name))  # type: ignore[attr-defined]
    error = refused(capsys, run, "--task", 0, "--format", kind)
    assert f"--format {kind} needs {package}: pip install 'hat-kernels[export]'" in error


def test_a_network_that_answers_something_else(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = sys.modules["hat.cli.export"]
    real = hat.export

    def broken(*given: object) -> torch.nn.Module:
        network = real(*given)  # type: ignore[arg-type]
        with torch.no_grad():
            network.head.bias[0] += 0.25
        return network

    monkeypatch.setattr(module, "export", broken)
    assert "task 0: expected the logits of the run, got logits that differ by 0.25" in refused(capsys, run, "--task", 0)
