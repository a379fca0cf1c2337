"""The benchmark of exported networks, with tiny networks, and its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import export, export_tables
from benchmarks.exported import dense_and_exported, model_of_share
from benchmarks.gpu.steps import TINY

PAGE = Path(export.__file__).parent.parent / "docs" / "measurements.md"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "BURST", 0.0)
    monkeypatch.setattr(export, "BATCHES", {"trained": (1, 4), "shares": (2,)})


@pytest.mark.filterwarnings("ignore::hat.CapacityWarning")  # a quarter of two channels is rounded to no channel
def test_a_share_of_every_layer() -> None:
    rows = list(export.shares(0.0, networks=TINY))
    assert [row["share"] for row in rows] == [0.25, 0.5, 0.75] * 2
    assert [units["kept"] for units in rows[0]["units"].values()] == [2, 2]
    assert rows[0]["flops"] == {"dense": 2 * 2 * (6 * 8 + 8 * 8 + 8 * 2), "exported": 2 * 2 * (6 * 2 + 2 * 2 + 2 * 2)}
    assert rows[1]["parameters"] == {"dense": 7 * 8 + 9 * 8 + 9 * 2, "exported": 7 * 4 + 5 * 4 + 5 * 2}
    assert all(row["ms"]["dense"]["p50"] > 0 and row["ratio"]["p50"] > 0 for row in rows)
    table = export_tables.text(
        {"environment": {"cpu": "abacus", "threads": 1, "torch": "2", "commit": "abc", "load": 0.0}, "rows": rows}
    )
    work = (6 * 2 + 2 * 2 + 2 * 2) / (6 * 8 + 8 * 8 + 8 * 2)
    assert f"| {work:.3f} " in table
    assert f"| {16 * rows[0]['ratio']['p50']:.2f} " in table
    assert table.endswith("abacus, 1 threads, torch 2, commit abc.")


def test_the_dense_network_has_all_units_and_the_exported_one_answers_as_the_model() -> None:
    model = model_of_share(TINY[1], 0.5).eval()
    networks, x = dense_and_exported(model, 0), torch.rand(3, *TINY[1].input_shape)
    torch.testing.assert_close(networks["exported"](x), model(x, task=0))
    assert [tuple(p.shape) for p in networks["dense"].body.parameters()] == [
        tuple(p.shape) for name, p in model.body.named_parameters() if "embedding" not in name
    ]


def test_trained_networks(tmp_path: Path) -> None:
    command = "--stream permuted --dataset digits --tasks 1 --limit 20 --hidden 12 10 --epochs 1 --quiet"
    rows = list(export.trained(tmp_path, 0.0, commands={"small": command}))
    assert [(row["task"], row["batch"]) for row in rows] == [(0, 1), (0, 4)]
    assert all(row["accuracy"] == row["accuracy_exported"] for row in rows)
    again = list(export.trained(tmp_path, 0.0, commands={"small": command}))  # uses the runs in the folder
    assert [row["accuracy"] for row in again] == [row["accuracy"] for row in rows]
    table = export_tables.text(
        {"environment": {"cpu": "abacus", "threads": 1, "torch": "2", "commit": "abc", "load": 0.0}, "rows": rows}
    )
    assert "| small   | permuted digits 0 |" in table
    assert f"`hat train {command}`" in table


def test_the_command_replaces_the_parts_that_it_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, page = tmp_path / "export.json", tmp_path / "page.md"
    trained_row = {"part": "trained", "network": "old"}
    out.write_text(json.dumps({"rows": [trained_row, {"part": "shares", "network": "old"}]}))
    monkeypatch.setattr(export, "MLP", TINY[0])
    monkeypatch.setattr(export, "shares", lambda seconds: iter(list(SHARES_ROWS)))
    monkeypatch.setattr(export_tables, "_trained", lambda rows: "")
    assert export.main(["--parts", "shares", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert rows[0] == trained_row
    assert [row["network"] for row in rows[1:]] == ["tiny"]
    page.write_text("before\n<!-- export -->\nold\n<!-- /export -->\nbehind\n")
    assert export.main(["--check", str(page), "--out", str(out)]) == 1
    assert export.main(["--write", str(page), "--out", str(out)]) == 0
    assert export.main(["--check", str(page), "--out", str(out)]) == 0
    assert page.read_text().startswith("before\n")
    assert "| tiny " in page.read_text()
    assert page.read_text().endswith("\nbehind\n")
    page.write_text("none")
    with pytest.raises(ValueError, match=r"page\.md: expected one <!-- export --> and then one <!-- /export -->"):
        export.main(["--check", str(page), "--out", str(out)])


SHARES_ROWS = [
    {
        "part": "shares",
        "network": "tiny",
        "share": 0.5,
        "batch": 2,
        "flops": {"dense": 4, "exported": 1},
        "ms": {kind: {"p50": 1.0} for kind in ("dense", "exported")},
        "ratio": {"p20": 0.2, "p50": 0.25, "p80": 0.3},
    }
]


def test_the_page_shows_the_stored_figures() -> None:
    assert export.main(["--check", str(PAGE)]) == 0


def test_stored_figures_cover_all_parts_and_no_accuracy_changes() -> None:
    rows = json.loads(export.FIGURES.read_text())["rows"]
    trained = [row for row in rows if row["part"] == "trained"]
    assert {row["network"] for row in trained} == set(export.TRAINED)
    assert all(row["accuracy"] == row["accuracy_exported"] for row in trained)
    assert {row["share"] for row in rows if row["part"] == "shares"} == {0.25, 0.5, 0.75}
