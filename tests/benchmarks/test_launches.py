"""The launches and bytes of a step are counted."""

import pytest
import torch

from benchmarks import launches
from benchmarks.converted import TINY_RESNET18, TINY_VIT
from benchmarks.workload import Network
from tests.hat.tape import Tape, native_dropout

TINY = Network(kind="mlp", input_shape=(24,), hidden=(32, 32), classes=2)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(torch.cuda.is_available(), reason="emulates a GPU"),
]


def test_operations_are_counted_by_what_they_read_and_write():
    a, b = torch.ones(8, 4), torch.ones(4, 2)
    tape = Tape(keep=False)
    with tape.recording():
        c = a @ b
        c.add_(1)
        c.zero_()
        d = c.view(-1)[:4]
        torch._foreach_add_([a, b], 1)
    assert d.shape == (4,)
    assert tape.launches == {"mm": 1, "add_": 1, "zero_": 1, "_foreach_add_": 1}
    assert tape.bytes == {"mm": 4 * (32 + 8 + 16), "add_": 4 * 32, "zero_": 4 * 16, "_foreach_add_": 4 * 2 * (32 + 8)}


def test_views_move_nothing():
    """A linear layer on [B, N, F] without a bias reshapes its input and its output, and copies neither."""
    x, weight = torch.ones(2, 4, 8), torch.ones(6, 8)
    tape = Tape(keep=True)
    with tape.recording():
        y = torch.nn.functional.linear(x, weight)
    assert tape.launches == {"mm": 1}
    assert tape.bytes == {"mm": 4 * (64 + 48 + 48)}
    x.fill_(2)
    tape.replay()
    assert torch.equal(y, torch.full((2, 4, 6), 16.0))


def test_dropping_nothing_launches_nothing():
    x = torch.ones(4)
    assert native_dropout(x, 0.0) is x
    assert native_dropout(x, 0.5, training=False) is x
    assert not torch.equal(native_dropout(torch.ones(64), 0.5), torch.ones(64))


def test_mixed_answers_for_many_tasks_take_as_many_launches_as_for_two_tasks():
    rows_by_tasks = {tasks: launches.answers(TINY, 8, tasks) for tasks in (2, 8)}
    one, mixed, apart = ([rows[index]["launches"] for rows in rows_by_tasks.values()] for index in range(3))
    assert one[0] == one[1] < mixed[0] == mixed[1] <= one[0] + 4
    assert mixed[1] < apart[0] < apart[1]
    assert all(row["waits"] == 0 for rows in rows_by_tasks.values() for row in rows)
    assert "To answer for a batch" in launches.report(rows_by_tasks[8], "0" * 40)


@pytest.mark.parametrize("network", [TINY_RESNET18, TINY_VIT], ids=str)
def test_converted_networks_have_no_floor(network):
    rows = launches.count(network, 0.5, batch=2)
    assert [row["variant"] for row in rows] == ["plain", "ours"]
    assert all(row["bytes"] > 0 and row["waits"] == 0 for row in rows)
    assert launches.report(rows, "0" * 40).count("| -         |") == 2


def test_ours_moves_fewer_bytes_if_more_units_are_locked():
    rows = {
        (locked, row["variant"]): row for locked in (0.0, 0.5, 0.9) for row in launches.count(TINY, locked, batch=4)
    }
    assert all(row["waits"] == 0 for row in rows.values())
    assert all(row["bytes"] >= 0.9 * row["floor_bytes"] for row in rows.values())
    for variant in ("ours", "ours, update in matmul, our matmuls"):
        moved = [rows[locked, variant]["ratio_to_plain"] for locked in (0.0, 0.5, 0.9)]
        assert moved == sorted(moved, reverse=True)
    assert rows[0.0, "ours"]["launches"] < rows[0.0, "textbook"]["launches"]
    text = launches.report(list(rows.values()), "0" * 40)
    assert text.count("| plain ") == 3
