"""The experiments in docs/measurements.md: their command lines, their stored figures, table and picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks import experiments

PAGE = Path(experiments.__file__).parent.parent / "docs" / "measurements.md"


def row(command: str, **facts: object) -> dict[str, object]:
    measured = {"tasks": ["a", "b"], "now": [0.5, 1.0], "average_accuracy": 0.75, "largest_drift": 0.0}
    machine = {"processor": "abacus", "threads": 1, "torch": "2.9"}
    return {"command": command, **measured, "references": {}, **machine, **facts}


def test_the_page_shows_the_stored_figures() -> None:
    assert experiments.main(["--check", str(PAGE)]) == 0


def test_stored_figures_belong_to_the_experiments_of_today() -> None:
    stored = json.loads(experiments.FIGURES.read_text())
    assert stored
    assert set(stored) <= set(experiments.EXPERIMENTS)
    assert all(figures["largest_drift"] == 0 for figures in stored.values())


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_command_is_understood(name: str) -> None:
    (line,) = experiments.table({name: row(f"hat train {experiments.EXPERIMENTS[name]}")}).splitlines()[2:3]
    assert line.split("|")[1].strip() == name


def test_table_names_network_data_and_results() -> None:
    command = "hat train --stream split --dataset cifar10 --limit 2500 --network vit --hidden 64 --patch 8"
    table = experiments.table(
        {
            "one": row(command, references={"sequential": [0.25, 0.75]}, tasks=["split cifar10-jpeg 0"] * 2),
            "two": row("hat train --hidden 8 9", largest_drift=0.5),
        }
    )
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert lines[2] == "| one | vit, hidden 64, patch 8 | 2 | 2,500 | 75.00% | 50.00% | 0 |"
    assert lines[3] == "| two | mlp, hidden 8 9 | 2 | all | 75.00% | not run | 0.5 |"
    assert "which is lossy" in table
    assert f"- `{command}`" in lines
    assert lines[-1] == "Measured on: abacus, 1 threads, torch 2.9."


def test_the_picture_begins_with_the_stream_that_forgets_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(experiments, "PICTURE", tmp_path / "forgetting.png")
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: figures.append(figure))
    without = {"little": [0.5, 0.9], "much": [0.1, 1.0], "unknown": None}
    rows = {
        name: row("hat train", random=[0.5, 0.5], references={"sequential": shares} if shares else {})
        for name, shares in without.items()
    }
    experiments.draw(rows)
    (figure,) = figures
    assert [axes.get_title() for axes in figure.axes] == ["much", "little"]
    assert [axes.get_legend() for axes in figure.axes] == [None, None]  # the legend is below the panels
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"with HAT", "without HAT", "guessing"}
