"""What a user's function adds to the rows of a run: numbers under names of its own, and nothing else."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hat
from hat.training.extra import extra_numbers

ROW = {"lesson": "a", "epoch": 1, "loss": 0.5, "val_loss": 0.25}


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (1, 1),
        (-0.5, -0.5),
        (math.inf, math.inf),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([[2]]), 2),
        (torch.tensor(0.5, requires_grad=True), 0.5),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.array([0.5]), 0.5),
    ],
)
def test_numbers_become_plain(value: object, plain: float) -> None:
    added = extra_numbers(OrderedDict(mine=value), ROW)
    assert added == {"mine": plain}
    assert type(added["mine"]) is type(plain)
    assert math.isnan(extra_numbers({"mine": torch.nan}, ROW)["mine"])


@pytest.mark.parametrize(
    "value",
    [
        "x",
        "1",
        b"1",
        True,
        None,
        1j,
        [1],
        {},
        10**400,
        torch.ones(2),
        torch.ones(0),
        torch.tensor(True),
        np.array(["x"]),
        object,
    ],
)
def test_what_is_no_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"^after_epoch: expected a number as 'mine', got .*$"):
        extra_numbers({"mine": value}, ROW)


@pytest.mark.parametrize("name", [*ROW, "task", "verified_drift", "verified_moved"])
def test_a_name_of_the_row_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^after_epoch: expected names that are not in the row of the epoch, got '{name}'$"
    ):
        extra_numbers({"mine": 1.0, name: 1.0}, ROW)


@pytest.mark.parametrize("returned", [None, 1.0, "loss", ["loss"], [("mine", 1)], {1: 2.0}, {None: 1.0}])
def test_what_is_no_mapping_of_names_is_refused(returned: object) -> None:
    with pytest.raises(TypeError, match=r"^after_epoch: expected "):
        extra_numbers(returned, ROW)


@pytest.fixture(scope="module")
def stream() -> hat.data.Stream:
    return hat.data.permuted("digits", tasks=2, limit=4)


def trainer(stream: hat.data.Stream, folder: Path, after_epoch: Any) -> hat.Trainer:
    torch.manual_seed(1)
    model = hat.HATModel(hat.models.mlp(64, (8,)))
    config = hat.TrainConfig(epochs=2)
    return hat.Trainer(model, stream, config, run_dir=folder, progress=False, after_epoch=after_epoch)


def test_a_run_stops_at_a_wrong_row_and_can_be_resumed(stream: hat.data.Stream, tmp_path: Path) -> None:
    def colliding(model: hat.HATModel, row: dict[str, Any]) -> dict[str, Any]:
        return {"mine": 1, **({"val_loss": -1.0} if row["epoch"] == 2 and model.tasks else {})}

    for options in ({}, {"resume": True}):  # the resumed run checks, too
        with pytest.raises(ValueError, match="got 'val_loss'"):
            trainer(stream, tmp_path, colliding).run(**options)
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [(row["task"], row["epoch"], row["mine"]) for row in rows] == [(0, 1, 1), (0, 2, 1), (1, 1, 1)]
        assert min(row["val_loss"] for row in rows) > 0
    result = trainer(stream, tmp_path, lambda model, row: {"mine": torch.tensor(2.0)}).run(resume=True)
    assert [row["mine"] for row in result.history.epochs] == [1, 1, 1, 2.0]


def test_the_function_gets_a_copy_of_the_row(stream: hat.data.Stream, tmp_path: Path) -> None:
    kept = {"mine": 1.0}

    def spoil(model: hat.HATModel, row: dict[str, Any]) -> dict[str, float]:
        kept["mine"] += 1
        row.update(loss="spoiled", more=[1])
        del row["val_loss"]
        return kept

    history = trainer(stream[:1], tmp_path, spoil).run().history
    assert [row["mine"] for row in history.epochs] == [2.0, 3.0]
    assert all(isinstance(row["loss"], float) and "val_loss" in row and "more" not in row for row in history.epochs)
