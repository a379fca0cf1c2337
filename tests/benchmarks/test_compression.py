"""The compression runs in docs/measurements.md: their command lines, their stored figures, table and picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import compression
from hat.cli.parser import make_parser

PAGE = Path(compression.__file__).parent.parent / "docs" / "measurements.md"


def test_the_page_shows_the_stored_figures() -> None:
    assert compression.main(["--check", str(PAGE)]) == 0


def test_stored_figures_belong_to_the_commands_of_today() -> None:
    stored = json.loads(compression.FIGURES.read_text())
    assert list(stored) == list(compression.RUNS)
    for name, row in stored.items():
        assert row["command"] == f"hat compress {compression.RUNS[name]}"
        assert list(row["datasets"]) == make_parser().parse_args(row["command"].split()[1:]).datasets
        for run in row["datasets"].values():
            assert 0 < run["kept"] < run["weights"]


def test_table_and_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = {
        "accuracy": 0.95,
        "weights": 2000,
        "kept": 250,
        "epochs": {"val_accuracy": [0.5, 0.9], "kept": [0.5, 0.125]},
    }
    without = {"accuracy": 0.97, "epochs": [0.6, 0.9]}
    machine = {"processor": "abacus", "threads": 1, "torch": "2.9"}
    row = {"command": "hat compress", "datasets": {"mnist": {**part, "without": without}}, **machine}
    lines = compression.table({"mlp": row}).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "mlp",
        "mnist",
        "2",
        "2,000",
        "12.5%",
        "95.00%",
        "97.00%",
    ]
    assert "- `hat compress`" in lines
    assert lines[-1] == "Measured on: abacus, 1 threads, torch 2.9."
    monkeypatch.setattr(compression, "PICTURE", tmp_path / "compression.png")
    compression.draw({"mlp": row})
    assert (tmp_path / "compression.png").stat().st_size > 5000
