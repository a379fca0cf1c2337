"""For how many tasks the free units are enough, counted by hand."""

import math

import pytest
import torch
from torch import nn

import hat
from tests.hat.nets import use, wired

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]


def after(tasks, *, widths=(8, 6), **options):
    """A model that has learned tasks. Each task uses the given units of every axis, by their first places."""
    body = wired(hat.HATLinear(3, widths[0]), hat.HATLinear(widths[0], widths[1]))
    model = hat.HATModel(body, **options)
    for units in tasks:
        model.begin_task(2)
        with torch.no_grad():
            for gate, used in zip(model.gates.values(), units, strict=True):
                gate.embedding.copy_(torch.where(torch.isin(gate.origin, torch.tensor(used)), 1.0, -1.0))
        model.end_task()
    return model


TASKS = [([0, 1, 2], [5]), ([1, 2, 3], [5]), ([0, 1, 2], [5]), ([4, 5], [5])]


def test_by_hand():
    model = after(TASKS)
    first, second = hat.forecast(model).rows
    assert (first.name, first.units, first.free) == ("0.gate", 8, 2)
    assert first.mean_new == 1.0  # the last three tasks took 1, 0 and 2
    assert first.full_after == 2.0
    assert (second.units, second.free, second.mean_new, second.full_after) == (6, 5, 0.0, math.inf)
    assert hat.forecast(model).first_full == first
    assert hat.forecast(model).full_after == 2.0
    assert hat.forecast(model, last=1).rows[0].full_after == 1.0
    everything = hat.forecast(model, last=9)
    assert everything.last == 4
    assert [row.mean_new for row in everything.rows] == [6 / 4, 1 / 4]
    assert [row.full_after for row in everything.rows] == [2 / 1.5, 20.0]


def test_its_table():
    lines = str(hat.forecast(after(TASKS))).splitlines()
    assert lines[0].split() == ["axis", "units", "free", "new", "a", "task", "full", "after"]
    assert lines[2].split() == ["0", "8", "2", "1.0", "2.0", "tasks"]
    assert lines[3].split() == ["1", "6", "5", "0.0", "never"]
    assert lines[-1] == "new a task: mean of the last 3; 0 is full first, after 2.0 more tasks"


def test_before_the_first_task_and_while_one_is_learned():
    model = after([])
    found = hat.forecast(model)
    assert (found.last, found.first_full, found.full_after) == (0, None, math.inf)
    assert str(found).splitlines()[-1] == "no forecast, as no task is finished"
    learned = after(TASKS)
    before = hat.forecast(learned)
    learned.begin_task(2)
    assert hat.forecast(learned) == before
    assert learned.learning


def test_nothing_new_and_nothing_free():
    same = hat.forecast(after([([0], [0])] * 4))
    assert same.first_full is None
    assert str(same).splitlines()[-1] == "new a task: mean of the last 3; no axis fills up"
    full = hat.forecast(after([([*range(8)], [0])]))
    assert full.first_full.name == "0.gate"
    assert (full.rows[0].full_after, full.rows[1].full_after) == (0.0, 5.0)
    assert str(full).splitlines()[-1] == "new a task: those of the last; 0 is full"
    assert str(full).splitlines()[2].split()[-1] == "now"


def test_a_forgotten_task_counts_for_nothing(monkeypatch):
    """A unit that a forgotten task and a later task use counts as new for the later task."""
    model = after(TASKS)
    for gate in model.gates.values():
        rows = gate.masks.clone()
        rows[1:2] = 0
        gate.load_state_dict({**gate.state_dict(), "masks": rows})
    monkeypatch.setattr(hat.HATModel, "forgotten", (1,), raising=False)
    first, _ = hat.forecast(model).rows
    assert (first.free, first.mean_new) == (3, 5 / 3)  # 3, 0 and 2 by tasks 0, 2 and 3


def test_an_axis_that_has_grown():
    """Earlier tasks do not use the units that were added later."""
    model = after([], widths=(5, 4))
    use_all = {"0.gate": [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]], "1.gate": [[1, 0, 0, 0], [1, 0, 0, 0]]}
    for name, gate in model.gates.items():
        use(gate, use_all[name][0])
        gate.load_state_dict({**gate.state_dict(), "masks": torch.tensor(use_all[name], dtype=torch.float32)})
    assert [row.full_after for row in hat.forecast(model).rows] == [0.5, 6.0]


def test_units_that_the_network_came_with_are_new_to_no_task():
    model = hat.convert(
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(2, 4), pretrained="locked"
    )
    model.begin_task(2)
    model.end_task()
    (row,) = hat.forecast(model).rows
    assert (row.free, row.mean_new, row.full_after) == (0, 0.0, 0.0)


def test_soft_masks_count_above_one_half():
    model = after(TASKS[:1], config=hat.GateConfig(mask_mode="published", s_max=2.0))
    assert [(row.free, row.mean_new) for row in hat.forecast(model).rows] == [(5, 3.0), (5, 1.0)]


def test_what_cannot_be_asked():
    with pytest.raises(TypeError, match=r"^model: expected a hat.HATModel, got Linear$"):
        hat.forecast(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"^last: expected at least 1, got 0$"):
        hat.forecast(after([]), last=0)
