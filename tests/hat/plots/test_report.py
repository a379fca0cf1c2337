"""The report of a model: every expected number is counted by hand."""

import pytest
import torch
from torch import nn

import hat
from tests.hat.nets import wired
from tests.hat.reports.test_forecast import TASKS, after

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]


def test_units_by_hand():
    model = after(TASKS)
    report = hat.report(model)
    assert report.tasks == (0, 1, 2, 3)
    counts = [(row.task, row.axis, row.used, row.new, row.shared) for row in report.rows]
    assert counts[:4] == [
        (0, "0.gate", 3, 3, 0),
        (0, "1.gate", 1, 1, 0),
        (1, "0.gate", 3, 1, 2),
        (1, "1.gate", 1, 0, 1),
    ]
    assert counts[-2:] == [(3, "0.gate", 2, 2, 0), (3, "1.gate", 1, 0, 1)]
    assert report.overlap[0].tolist() == [1.0, 3 / 4, 1.0, 1 / 4]
    assert report.overlap[3].tolist() == [1 / 3, 1 / 3, 1 / 3, 1.0]
    assert report.forecast == hat.forecast(model)
    assert torch.equal(report.masks["0.gate"], model.gates["0.gate"].masks > 0.5)
    assert report.channels == ()


def test_tables_of_the_report():
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


def test_tables_show_the_last_ten_tasks_and_rows_hold_all():
    report = hat.report(after([([task % 8], [0]) for task in range(12)]))
    assert len(report.rows) == 24
    assert "units used by the last 10 of 12 tasks" in str(report)
    assert "\n11: task 11" in str(report)
    assert "\n1: task 1 " not in str(report)


def test_report_before_during_and_after_the_first_task():
    model = after([])
    before = hat.report(model)
    assert (before.tasks, before.rows, before.plots()) == ((), (), {})
    assert str(before) == str(before.forecast)
    model.begin_task(2)
    assert str(hat.report(model)) == str(before)
    model.end_task()
    after_first = hat.report(model)
    assert after_first.overlap.tolist() == [[1.0]]
    assert "another one" not in str(after_first)


def test_a_forgotten_task_is_left_out(monkeypatch):
    monkeypatch.setattr(hat.HATModel, "forgotten", (1,), raising=False)
    report = hat.report(after(TASKS), names=["a", "b", "c", "d"])
    assert (report.tasks, report.names) == ((0, 2, 3), ("a", "c", "d"))
    assert {row.task for row in report.rows} == {0, 2, 3}
    assert report.overlap.shape == (3, 3)
    assert report.masks["0.gate"].shape == (3, 8)


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    body = wired(hat.HATConv2d(1, 4, 3), hat.HATConv2d(4, 6, 1), nn.Flatten(), hat.HATLinear(24, 5))
    model = hat.HATModel(body)
    for _ in range(2):
        model.begin_task(2)
        model.end_task()
    report = hat.report(model)
    assert report.channels == ("0.gate", "1.gate")
    files = report.save(tmp_path / "new" / "folder")
    names = ["units", "capacity", "overlap", "channels-0", "channels-1"]
    assert [file.name for file in files] == [f"{name}.png" for name in names]
    assert all(file.stat().st_size > 5000 for file in files)
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == sorted(f"{n}.png" for n in names)
    lines = report.plots()["capacity"].axes[0].lines
    assert lines[0].get_ydata()[-1] == pytest.approx(100 * model.capacity()["0.gate"])
    units = sum(gate.units for gate in model.gates.values())
    used = sum(int(gate.used.sum()) for gate in model.gates.values())
    assert lines[-1].get_ydata()[-1] == pytest.approx(100 * used / units)


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match=r"^model: expected a hat.HATModel, got Linear$"):
        hat.report(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"^names: expected 4, one a task, got 1$"):
        hat.report(after(TASKS), names=["a"])
