"""The numbers of the report of a model, counted by hand."""

import pytest
import torch
from torch import nn

import hat
from tests.hat.reports.test_forecast import TASKS, after

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]


def test_units_by_hand():
    model = after(TASKS)
    found = hat.report(model)
    assert found.tasks == (0, 1, 2, 3)
    counts = [(row.task, row.axis, row.used, row.new, row.shared) for row in found.rows]
    assert counts[:4] == [
        (0, "0.gate", 3, 3, 0),
        (0, "1.gate", 1, 1, 0),
        (1, "0.gate", 3, 1, 2),
        (1, "1.gate", 1, 0, 1),
    ]
    assert counts[-2:] == [(3, "0.gate", 2, 2, 0), (3, "1.gate", 1, 0, 1)]
    assert found.overlap[0].tolist() == [1.0, 3 / 4, 1.0, 1 / 4]
    assert found.overlap[3].tolist() == [1 / 3, 1 / 3, 1 / 3, 1.0]
    assert found.forecast == hat.forecast(model)
    assert torch.equal(found.masks["0.gate"], model.gates["0.gate"].masks > 0.5)
    assert found.channels == ()


def test_its_tables():
    lines = str(hat.report(after(TASKS), names=["a", "b", "c", "d"])).splitlines()
    assert lines[0].split()[:3] == ["axis", "units", "free"]
    units = lines.index("units used by every task (in brackets: units that no earlier task had used)") + 2
    assert lines[units].split() == ["axis", "0", "1", "2", "3"]
    assert lines[units + 2] == "0         3 (3)  3 (1)  3 (0)  2 (2)"
    assert lines[units + 5] == "all axes  4 (4)  4 (1)  4 (0)  3 (2)"
    assert [line.split() for line in lines[-4:]] == [
        ["0:", "a", "-", "75.0%", "100.0%", "25.0%"],
        ["1:", "b", "75.0%", "-", "75.0%", "25.0%"],
        ["2:", "c", "100.0%", "75.0%", "-", "25.0%"],
        ["3:", "d", "33.3%", "33.3%", "33.3%", "-"],
    ]


def test_many_tasks_are_shown_in_part_and_kept_whole():
    found = hat.report(after([([task % 8], [0]) for task in range(12)]))
    assert len(found.rows) == 24
    assert "units used by the last 10 of 12 tasks" in str(found)
    assert "\n11: task 11" in str(found)
    assert "\n1: task 1 " not in str(found)


def test_before_the_first_task_behind_it_and_while_one_is_learned():
    model = after([])
    found = hat.report(model)
    assert (found.tasks, found.rows, found.plots()) == ((), (), {})
    assert str(found) == str(found.forecast)
    model.begin_task(2)
    assert str(hat.report(model)) == str(found)
    model.end_task()
    one = hat.report(model)
    assert one.overlap.tolist() == [[1.0]]
    assert "another one" not in str(one)


def test_a_forgotten_task_is_left_out(monkeypatch):
    monkeypatch.setattr(hat.HATModel, "forgotten", (1,), raising=False)
    found = hat.report(after(TASKS), names=["a", "b", "c", "d"])
    assert (found.tasks, found.names) == ((0, 2, 3), ("a", "c", "d"))
    assert {row.task for row in found.rows} == {0, 2, 3}
    assert found.overlap.shape == (3, 3)
    assert found.masks["0.gate"].shape == (3, 8)


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    body = hat.chain(hat.HATConv2d(1, 4, 3), hat.HATConv2d(4, 6, 1), nn.Flatten(), hat.HATLinear(24, 5))
    model = hat.HATModel(body)
    for _ in range(2):
        model.begin_task(2)
        model.end_task()
    found = hat.report(model)
    assert found.channels == ("0.gate", "1.gate")
    files = found.save(tmp_path / "new" / "folder")
    names = ["units", "capacity", "overlap", "channels-0", "channels-1"]
    assert [file.name for file in files] == [f"{name}.png" for name in names]
    assert all(file.stat().st_size > 5000 for file in files)
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == sorted(f"{n}.png" for n in names)
    lines = found.plots()["capacity"].axes[0].lines
    assert lines[0].get_ydata()[-1] == pytest.approx(100 * model.capacity()["0.gate"])
    units = sum(gate.units for gate in model.gates.values())
    used = sum(int(gate.used.sum()) for gate in model.gates.values())
    assert lines[-1].get_ydata()[-1] == pytest.approx(100 * used / units)


def test_what_cannot_be_asked():
    with pytest.raises(TypeError, match=r"^model: expected a hat.HATModel, got Linear$"):
        hat.report(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"^names: expected 4, one a task, got 1$"):
        hat.report(after(TASKS), names=["a"])
