"""The GPU benchmark as a dry run on the CPU: the code is the same as on a GPU, the tensors are tiny."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import kernels
from benchmarks.bench import Case
from benchmarks.converted import TINY_VIT
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import (
    converted,
    exported,
    folding,
    linear,
    mixed,
    operations,
    report,
    run,
    steps,
    tests,
    updates,
    whole,
)
from benchmarks.gpu.ceilings import Ceilings
from benchmarks.gpu.device import Device, file_name
from benchmarks.gpu.timing import Timed, measure, summary
from benchmarks.serving import KINDS
from benchmarks.workload import batches
from hat_kernels.gated_linear import choice

CPU = Device("cpu")
CEILINGS = Ceilings(1e9, {"fp32": 1e9, "fp16": 1e9, "bf16": 1e9})
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value")
MAKERS = (*operations.OPERATIONS, folding.folded_weight, updates.updates, updates.embeddings)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_variant_of_every_case_runs(make: Any) -> None:
    for case in make(CPU, CPU.sizes[0], "fp32"):
        if case.locked in (0.75, 0.9):
            continue
        timed = measure(CPU, case.variants, rounds=1)
        rows = [run.row(case, name, timed, CEILINGS) for name in timed]
        assert [row.get("error") for row in rows] == [None] * len(rows)
        assert all(row["gbs"] > 0 for row in rows)
        assert {"ours", "reference", "compiled reference"} <= {row["variant"] for row in rows}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_pooled_convolution_is_timed_folded_and_unfolded(dtype: str) -> None:
    (case,) = folding.pooled_convolution(CPU, CPU.sizes[0], dtype)
    timed = measure(CPU, case.variants, rounds=1)
    assert {name: summary(times).get("error") for name, times in timed.items()} == {
        "ours": None,
        "unfolded": None,
        "plain": None,
    }
    assert not list(folding.pooled_convolution(CPU, CPU.sizes[0], "fp16"))


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("size", CPU.sizes)
def test_other_dtypes_and_sizes_make_cases(dtype: str, size: int) -> None:
    cases = [case for make in MAKERS for case in make(CPU, size, dtype)]
    assert {case.dtype for case in cases} == {dtype}
    assert all(case.bytes > 0 for case in cases)


def test_bytes_of_an_update_shrink_with_the_free_area() -> None:
    cases = [case for case in updates.updates(CPU, CPU.sizes[0], "fp32") if case.operation == "adamw_update_"]
    assert [case.bytes / (7 * CPU.sizes[0]) for case in cases] == pytest.approx([1, 0.75, 0.4375, 0.19])


def test_a_step_of_each_kind_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "TINY", steps.TINY[:1])
    rows = list(steps.rows(CPU, None, 1))
    assert [(row["variant"], row.get("error")) for row in rows] == [
        (kind, None) for kind in (*steps.KINDS, steps.TRAIN_STEP)
    ]
    assert rows[2]["ratio_to"]["plain"] > 0


def test_answers_for_many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed, "TINY", steps.TINY[:1])
    rows = list(mixed.rows(CPU, None, 1))
    assert [(row["variant"], row.get("error")) for row in rows] == [(kind, None) for kind in KINDS]
    text = report.report({"environment": CPU.facts(), "ceilings": {"copy": 1.0, "matmul": {}}, "rows": rows})
    assert "### Many tasks in one batch" in text
    assert {row["error"] for row in mixed.rows(CPU, None, 1, time.monotonic() - 1)} == {"out of time"}


def test_exported_networks() -> None:
    rows = list(exported.rows(CPU, None, 1))
    assert [(row["variant"], row.get("error")) for row in rows] == [("dense", None), ("exported", None)] * 2
    text = report.report({"environment": CPU.facts(), "ceilings": {"copy": 1.0, "matmul": {}}, "rows": rows})
    assert "### Exported networks" in text
    assert f"| {4 * rows[1]['ratio_to']['dense']:.2f} " in text
    assert {row["error"] for row in exported.rows(CPU, None, 1, time.monotonic() - 1)} == {"out of time"}


@pytest.mark.filterwarnings("ignore:a gradient holds inf")  # interpreted matmuls of bfloat16 compute garbage
def test_a_step_of_a_converted_network_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converted, "TINY", ((TINY_VIT, 2),))
    rows = list(converted.rows(CPU, None, 1))
    assert [(row["variant"], row["dtype"], row.get("error")) for row in rows] == [
        ("plain", "bf16", None),
        ("ours", "bf16", None),
    ]
    text = report.report({"environment": CPU.facts(), "ceilings": {"copy": 1.0, "matmul": {}}, "rows": rows})
    assert "| step, ViT 1 x 4 3x8x8, batch 2 | 50 %" in text
    assert f"| {rows[1]['ratio_to']['plain']:.2f} " in text
    late = list(converted.rows(CPU, None, 1, time.monotonic() - 1))
    assert [row["error"] for row in late] == ["out of time"]


def test_the_forward_pass_of_a_converted_network_is_under_autocast() -> None:
    case = Case(network=TINY_VIT, batch=2)
    step = converted._step(CPU, "plain", case)
    ((x, y),) = batches(TINY_VIT, 2, 1)
    dtypes = []
    step.model.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    step(x, y, 0.5)
    assert dtypes == [torch.bfloat16]
    assert {p.dtype for p in step.model.parameters()} == {torch.float32}


def test_a_whole_run_forgets_nothing_and_is_timed() -> None:
    rows = list(whole.rows(CPU, math.inf))
    assert [(row["variant"], row.get("error")) for row in rows] == [("ours", None), ("plain", None)]
    assert rows[0]["drift"] == 0
    assert all(row["seconds"] > 0 for row in rows)
    late = list(whole.rows(CPU, time.monotonic() - 1))
    assert {row["error"] for row in late} == {"out of time"}


def test_the_fastest_kernels_are_found_and_stored(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    entries = run.choose(CPU, math.inf, 1, tmp_path / "measured" / "gpu.json", rows)
    assert choice.read(tmp_path / "measured" / "gpu.json") == entries
    assert {purpose for purpose, _, _ in entries} == set(choice.PASSES)
    assert {row["variant"] for row in rows} == {"vendor", "plain"}
    assert not [row for row in rows if "error" in row]
    assert "Kernels of linear layers" in report.report(
        {"environment": CPU.facts(), "ceilings": {"copy": 1.0, "matmul": {}}, "rows": rows}
    )
    with choice.measuring(entries):
        assert choice.table("any") == entries
    assert choice.table("any") == {}


def test_after_an_error_of_one_variant_the_others_go_on() -> None:
    def fail() -> None:
        raise ValueError("no such thing\nsecond line")

    timed = measure(CPU, {"good": lambda: [lambda: None], "bad": lambda: [fail]}, rounds=2)
    assert summary(timed["good"])["rounds"] == 2
    assert summary(timed["bad"]) == {"error": "ValueError: no such thing"}
    assert steps.ratios(timed, "good") == {}
    assert steps.ratios({"a": Timed(ms=[2.0, 4.0]), "b": Timed(ms=[1.0, 2.0])}, "a") == {"b": 2.0}


def test_a_case_without_time_has_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "TINY", ())
    rows = list(run.measure_all(CPU, CEILINGS, 0.0, 1))
    assert rows
    assert {row["error"] for row in rows} == {"out of time"}
    assert report.report({"environment": CPU.facts(), "ceilings": {"copy": 1.0, "matmul": {}}, "rows": rows})


def test_the_command_writes_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "OPERATIONS", (operations.lock_gradient,))
    monkeypatch.setattr(run, "FOLDING", ())
    monkeypatch.setattr(run, "updates", updates.embeddings)
    monkeypatch.setattr(steps, "TINY", ())
    monkeypatch.setattr(converted, "TINY", ())
    monkeypatch.setattr(mixed, "TINY", ())
    monkeypatch.setattr(exported, "TINY", ())
    monkeypatch.setattr(linear, "TINY", {})
    assert command.main(["--dry-run", "--no-tests", "--rounds", "1", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "dry-run-on-a-cpu.json").read_text())
    assert results["rows"]
    assert all({"gpu", "driver", "torch", "triton", "commit"} <= set(row) for row in results["rows"])
    text = (tmp_path / "dry-run-on-a-cpu.md").read_text()
    assert "lock_gradient_" in text
    assert "Not measured" not in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2
    assert capsys.readouterr().err.strip() == "no GPU here: torch.cuda.is_available() is False"


def test_tests_are_counted_and_ended(tmp_path: Path) -> None:
    good, bad = tmp_path / "test_good.py", tmp_path / "test_bad.py"
    good.write_text("def test_a(): pass\ndef test_b(): pass\n")
    bad.write_text("def test_a(): assert False\n")
    rows = tests.run(1e6, [[str(good)], [str(bad)]])
    assert [(row["status"], row.get("passed", 0), row.get("failed", 0)) for row in rows] == [
        ("passed", 2, 0),
        ("failed", 0, 1),
    ]
    assert "assert False" in rows[1]["output"]
    assert any("lock_update" in str(group) for group in tests.groups())


def test_names_of_files() -> None:
    assert file_name("NVIDIA H200") == "nvidia-h200"
    assert file_name("AMD Instinct MI300X (gfx942)") == "amd-instinct-mi300x-gfx942"


def test_table_of_kernels() -> None:
    row = dict.fromkeys(kernels.COLUMNS, 1) | {"kernel": "a", "target": "sm_90"}
    text = kernels.report({"triton": "3", "commit": "abc"}, [row, {"kernel": "b", "target": "sm_80", "error": "x"}])
    assert "sm_90" in text
    assert "failed" in text
