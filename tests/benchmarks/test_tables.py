"""All tables are made from results files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import markdown, record, tables
from benchmarks.bench import Case
from benchmarks.measure import Timings
from benchmarks.parts import epoch, scale
from benchmarks.step import PHASES
from benchmarks.variants import IN_MATMUL, OURS
from benchmarks.workload import MLP

SPREAD = {"p20": 0.9, "p50": 1.0, "p80": 1.1}
SHARES = {0.0: epoch.VARIANTS, 0.25: epoch.EVERYWHERE, 0.5: epoch.VARIANTS}


def epoch_row(variant: str, locked: float, ms: float) -> dict[str, Any]:
    others = [name for name in SHARES[locked] if name != variant]
    return {
        "part": "epoch",
        "variant": variant,
        "network": "MLP",
        "batch": 64,
        "locked": locked,
        "ms": SPREAD,
        "epoch_ms": ms,
        "phase_ms": dict.fromkeys(PHASES, 4.0),
        "ratio_to": {other: {**SPREAD, "p50": 0.5} for other in others},
        "floor_ms": 1.0,
        "phase_floor_ms": dict.fromkeys(PHASES, 0.3),
    }


def growth_rows() -> list[dict[str, Any]]:
    """Rows of the parts memory, tasks and width."""
    about = {"network": "MLP", "batch": 64, "locked": 0.5, "ms": SPREAD}
    sizes = {"state_bytes": 1 << 21, "step_bytes": 1 << 20}
    floors = {"floor_state_bytes": 1 << 19, "floor_step_bytes": 1 << 18}
    rows: list[dict[str, Any]] = [
        {"part": "memory", "variant": OURS, **about, **sizes, **floors, "peak_bytes": peak} for peak in (7 << 20, None)
    ]
    many = {"variant": OURS, **about, **sizes, "plain_ms": SPREAD, "ratio_to": {"plain": SPREAD}}
    rows += [{"part": "tasks", "tasks": tasks, "ratio_to_first": SPREAD, **many} for tasks in (1, 1000)]
    for width in (250, 8000):
        names = ("plain", "textbook", OURS, IN_MATMUL)
        ratios = {"ratio_to": dict.fromkeys(names, SPREAD), "epoch_ms": 0.25, "floor_ms": 0.125}
        rows += [{"part": "width", "width": width, "variant": name, **about, **ratios} for name in names]
    return rows


@pytest.fixture
def results() -> dict[str, Any]:
    rows = [epoch_row(name, locked, 12.34) for locked, names in SHARES.items() for name in names]
    timings = Timings(
        list(scale.SCALES), {name: [[0.01] * len(scale.SCALES) * scale.REPEATS] * 3 for name in ("plain", "ours")}
    )
    case = Case(network=MLP, batch=64)
    for name in timings.seconds:
        rows += scale.rows(name, "as a task begins", case, timings)
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
    rows += growth_rows()
    facts = {"cpu": "a processor", "threads": 2, "torch": "2.8", "commit": "0123456789abcdef", "load": 0.0}
    return {"environment": facts, "machine": {"flops": 5e10, "bandwidth": 1e10}, "rows": rows}


BEGIN, END = f"<!-- {tables.MARKER} -->", f"<!-- /{tables.MARKER} -->"
PAGE = Path(tables.__file__).parent.parent / "docs" / "measurements.md"


def test_the_page_shows_the_stored_figures() -> None:
    assert tables.main(["--check", str(PAGE)]) == 0


@pytest.fixture
def saved(results: dict[str, Any], tmp_path: Path) -> Path:
    record.write(tmp_path / "cpu.json", results)
    return tmp_path / "cpu.json"


def page(folder: Path, text: str = f"top\n{BEGIN}\nold\n{END}\nbottom\n") -> Path:
    path = folder / "page.md"
    path.write_text(text)
    return path


def test_write_then_check(saved: Path, tmp_path: Path) -> None:
    target = page(tmp_path)
    arguments = ["--results", str(saved)]
    assert tables.main([*arguments, "--check", str(target)]) == 1
    assert tables.main([*arguments, "--write", str(target)]) == 0
    text = target.read_text()
    assert text.startswith(f"top\n{BEGIN}\n")
    assert text.endswith(f"{END}\nbottom\n")
    assert "old" not in text
    assert "12.3 ms" in text
    assert "0.50 (0.90 to 1.10)" in text
    assert "012345678;" in text
    assert "25 %" not in text  # at this share, some variants did not run
    assert tables.main([*arguments, "--check", str(target)]) == 0
    assert tables.main([*arguments, "--write", str(target)]) == 0
    assert target.read_text() == text


@pytest.mark.parametrize("text", ["no marks", BEGIN, f"{END} {BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_wrong_marks_are_an_error(saved: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = page(tmp_path, text)
    assert tables.main(["--results", str(saved), "--write", str(target)]) == 2
    assert "page.md: expected one <!-- benchmark:cpu -->" in capsys.readouterr().err
    assert target.read_text() == text


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_a_file_without_results_is_an_error(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cpu.json"
    if text is not None:
        path.write_text(text)
    assert tables.main(["--results", str(path)]) == 2
    assert "expected results of `python -m benchmarks`" in capsys.readouterr().err


def test_full_report_shows_every_part(results: dict[str, Any]) -> None:
    text = tables.full(results)
    for part in ("| MLP ", "s = 1/400", "| op ", "50 GFLOP/s", "10.0 GB/s", "Single operations", "| 25 % "):
        assert part in text
    for part in ("4.0 / 4.0 / 4.0", "| 7.0 MiB ", "| 1000 ", "| 0.25 ms ", f"| {markdown.NONE} "):
        assert part in text
    assert "busy" not in text
    results["environment"]["load"] = 3.0
    assert "busy at the start (load 3.0)" in tables.full(results)


def test_a_part_that_did_not_run_has_no_heading(results: dict[str, Any]) -> None:
    results["rows"] = [row for row in results["rows"] if row["part"] == "width"]
    assert [line for line in tables.full(results).splitlines() if line.startswith("#")] == [
        "# CPU benchmarks",
        "## Width",
    ]


def test_table_columns_are_even() -> None:
    lines = markdown.table(["a", "long"], [["xyz", "1"]]).splitlines()
    assert lines == ["| a   | long |", "| --- | ---- |", "| xyz | 1    |"]
    assert markdown.table(["a"], []) == ""


def test_floats_keep_six_digits(tmp_path: Path) -> None:
    record.write(tmp_path / "x.json", {"rows": [{"a": 1.23456789, "b": (2, "c", True)}]})
    assert record.read(tmp_path / "x.json") == {"rows": [{"a": 1.23457, "b": [2, "c", True]}]}


def test_scale_labels() -> None:
    assert [markdown.label(s) for s in scale.SCALES] == ["1/400", "0.1", "1", "10", "30", "100", "200", "400"]


def test_pictures_are_drawn(results: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import pictures

    assert [path.name for path in pictures.draw(results, tmp_path)] == [
        "cpu-scale.png",
        "cpu-locked.png",
        "cpu-tasks.png",
        "cpu-width.png",
    ]
    assert pictures.draw({"rows": []}, tmp_path) == []


def test_a_legend_explains_floor_and_flush_mode() -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import panels

    figure, (axes,) = panels.panels(1, "title")
    panels.floor(axes, [(0.0, 1.0)])
    axes.plot([0], [1], label="textbook, flush mode")
    panels.legend(figure, axes)
    notes = figure.legends[0].get_title().get_text().splitlines()
    assert [note.partition(":")[0] for note in notes] == ["flush mode", "floor"]


def test_results_of_another_version_are_an_error(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = record.read(saved)
    results["rows"] = [row for row in results["rows"] if row["variant"] != OURS]
    record.write(saved, results)
    assert tables.main(["--results", str(saved), "--check", str(tmp_path / "page.md")]) == 2
    (tmp_path / "page.md").write_text(f"{BEGIN}\n{END}\n")
    assert tables.main(["--results", str(saved), "--check", str(tmp_path / "page.md")]) == 2
    assert "expected results of this version, got some without 'ours'" in capsys.readouterr().err
