"""Tables come from a results file and only from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import record, suite, tables
from benchmarks.cost import Machine
from benchmarks.measure import Timings, progress_grid
from benchmarks.worker import Case
from benchmarks.workload import MLP

SPREAD = {"p20": 0.9, "p50": 1.0, "p80": 1.1}


def epoch_row(variant: str, locked: float, ms: float) -> dict[str, Any]:
    others = [name for name in suite.EPOCH_VARIANTS if name != variant]
    return {
        "part": "epoch",
        "variant": variant,
        "network": "MLP",
        "batch": 64,
        "locked": locked,
        "ms": SPREAD,
        "epoch_ms": ms,
        "ratio_to": {other: {**SPREAD, "p50": 0.5} for other in others},
        "floor_ms": 1.0,
    }


@pytest.fixture
def results() -> dict[str, Any]:
    rows = [epoch_row(name, locked, 12.34) for locked in (0.0, 0.5) for name in suite.EPOCH_VARIANTS]
    timings = Timings(
        list(suite.SCALES), {name: [[0.01] * len(suite.SCALES) * suite.REPEATS] * 3 for name in ("plain", "ours")}
    )
    case = Case(network=MLP, batch=64)
    for name in timings.seconds:
        rows += suite.scale_rows(name, "as a task begins", case, timings)
    rows += [
        {
            "part": "operation",
            "operation": "op",
            "variant": name,
            "ms": SPREAD,
            "ratio_to": {"plain": SPREAD, "ours": SPREAD},
        }
        for name in ("plain", "textbook", "ours")
    ]
    facts = {"cpu": "a processor", "threads": 2, "torch": "2.8", "commit": "0123456789abcdef", "load": 0.0}
    return {"environment": facts, "machine": {"flops": 5e10, "bandwidth": 1e10}, "rows": rows}


@pytest.fixture
def saved(results: dict[str, Any], tmp_path: Path) -> Path:
    record.write(tmp_path / "cpu.json", results)
    return tmp_path / "cpu.json"


def readme(folder: Path, text: str = f"top\n{tables.BEGIN}\nold\n{tables.END}\nbottom\n") -> Path:
    path = folder / "README.md"
    path.write_text(text)
    return path


def test_write_then_check(saved: Path, tmp_path: Path) -> None:
    target = readme(tmp_path)
    arguments = ["--results", str(saved)]
    assert tables.main([*arguments, "--check", str(target)]) == 1
    assert tables.main([*arguments, "--write", str(target)]) == 0
    text = target.read_text()
    assert text.startswith(f"top\n{tables.BEGIN}\n")
    assert text.endswith(f"{tables.END}\nbottom\n")
    assert "old" not in text
    assert "12.3 ms" in text
    assert "0.50 (0.90 to 1.10)" in text
    assert "012345678;" in text
    assert tables.main([*arguments, "--check", str(target)]) == 0
    assert tables.main([*arguments, "--write", str(target)]) == 0
    assert target.read_text() == text


@pytest.mark.parametrize(
    "text", ["no marks", tables.BEGIN, f"{tables.END} {tables.BEGIN}", f"{tables.BEGIN}{tables.BEGIN}{tables.END}"]
)
def test_marks_that_do_not_fit(saved: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = readme(tmp_path, text)
    assert tables.main(["--results", str(saved), "--write", str(target)]) == 2
    assert "README.md: expected one <!-- benchmark:cpu -->" in capsys.readouterr().err
    assert target.read_text() == text


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_results_that_are_none(tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cpu.json"
    if text is not None:
        path.write_text(text)
    assert tables.main(["--results", str(path)]) == 2
    assert "expected results of `python -m benchmarks`" in capsys.readouterr().err


def test_full_report_shows_every_part(results: dict[str, Any]) -> None:
    text = tables.full(results)
    for wanted in ("| MLP ", "s = 1/400", "| op ", "50 GFLOP/s", "10.0 GB/s", "Single operations"):
        assert wanted in text
    assert "busy" not in text
    results["environment"]["load"] = 3.0
    assert "busy at the start (load 3.0)" in tables.full(results)


def test_table_columns_are_even() -> None:
    lines = tables.table(["a", "long"], [["xyz", "1"]]).splitlines()
    assert lines == ["| a   | long |", "| --- | ---- |", "| xyz | 1    |"]
    assert tables.table(["a"], []) == ""


def test_floats_keep_six_digits(tmp_path: Path) -> None:
    record.write(tmp_path / "x.json", {"rows": [{"a": 1.23456789, "b": (2, "c", True)}]})
    assert record.read(tmp_path / "x.json") == {"rows": [{"a": 1.23457, "b": [2, "c", True]}]}


def test_scale_labels() -> None:
    assert [tables.label(scale) for scale in suite.SCALES] == ["1/400", "0.1", "1", "10", "30", "100", "200", "400"]


def test_pictures_are_drawn(results: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import pictures

    assert [path.name for path in pictures.draw(results, tmp_path)] == ["cpu-scale.png", "cpu-locked.png"]
    assert pictures.draw({"rows": []}, tmp_path) == []


class Instant:
    """A worker that measures nothing: the step takes 1 ms, plain 2 ms."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def build(self, case: Case) -> None:
        pass

    def run(self, grid: list[float]) -> list[float]:
        return [self.seconds] * len(grid)


def test_rows_of_a_suite_with_instant_workers() -> None:
    running: Any = {name: Instant(0.002 if name == "plain" else 0.001) for name in suite.VARIANTS}
    machine, plan = Machine(1e11, 1e10), suite.Plan(seconds=0.0, least=2)
    rows = list(suite.epochs(machine, plan, running))
    assert len(rows) == 3 * len(suite.LOCKED) * len(suite.EPOCH_VARIANTS)
    ours = next(row for row in rows if row["variant"] == "ours")
    assert ours["ratio_to"]["plain"]["p50"] == 0.5
    assert ours["epoch_ms"] == pytest.approx(1.0)
    assert ours["rounds"] == 2
    assert ours["flops"] > 0
    assert len(progress_grid(suite.POINTS)) == suite.POINTS
    scale = list(suite.scales(machine, plan, running))
    assert len(scale) == 2 * len(suite.VARIANTS) * len(suite.SCALES)
    assert scale[0]["ratio_to_scale_1"]["p50"] == 1.0
    facts = {"cpu": "c", "threads": 1, "torch": "t", "commit": "unknown", "load": 0.0}
    tables.full({"environment": facts, "machine": {"flops": 1.0, "bandwidth": 1.0}, "rows": rows + scale})


def test_a_late_part_makes_do_with_one_round() -> None:
    assert suite.Plan(seconds=10.0, patience=1e9).share(0.1) == {"seconds": 1.0, "least": 2, "most": 15}
    assert suite.Plan(seconds=10.0, patience=0.0).share(0.1)["least"] == 1


def test_results_of_another_version_are_named(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = record.read(saved)
    results["rows"] = [row for row in results["rows"] if row["variant"] != tables.FLUSHED]
    record.write(saved, results)
    assert tables.main(["--results", str(saved), "--check", str(tmp_path / "README.md")]) == 2
    (tmp_path / "README.md").write_text(f"{tables.BEGIN}\n{tables.END}\n")
    assert tables.main(["--results", str(saved), "--check", str(tmp_path / "README.md")]) == 2
    assert "expected results of this version, got some without 'textbook, flush mode'" in capsys.readouterr().err
