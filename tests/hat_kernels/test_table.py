"""The table of pointers: built once for each key, limited in number, without references to tensors."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from hat_kernels import Lock, table
from hat_kernels.operands import arrange
from tests.hat_kernels.parameters import free, on_device


@pytest.fixture(autouse=True)
def no_tables(monkeypatch):
    monkeypatch.setattr(table, "_tables", type(table._tables)())


def build(parameters, grads, locks=None, **options):
    return table.table(arrange(parameters, grads, (), locks)[0], **options)


def test_is_built_once():
    parameter, grad = on_device((5, 7)), on_device((5, 7), seed=1)
    assert build([parameter], [grad]) is build([parameter], [grad])
    assert len(table._tables) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda p, g, lock: (p, g.clone(), lock),
        lambda p, g, lock: (p.view(16, 4), g.view(16, 4), Lock(free(16), free(4))),
        lambda p, g, lock: (p.view(torch.float32), g.half(), lock),
        lambda p, g, lock: (p, g, None),
        lambda p, g, lock: (p, g, Lock(lock.rows, lock.columns.clone())),
        lambda p, g, lock: (p, g, Lock(lock.rows)),
        lambda p, g, lock: (p, g, Lock(lock.rows, lock.columns[:4], column_repeat=2)),
    ],
)
def test_is_another_for_other_operands(change):
    parameter, grad, lock = on_device((8, 8)), on_device((8, 8), seed=1), Lock(free(8), free(8))
    first = build([parameter], [grad], [lock])
    p, g, other = change(parameter, grad, lock)
    assert build([p], [g], [other]) is not first


def test_is_bounded_and_keeps_nothing_alive():
    parameter = on_device((5, 7))
    for _ in range(3 * table._KEPT):
        grad = torch.zeros_like(parameter)
        build([parameter], [grad], steps=len(table._tables) % 50 + 1)
    for steps in range(1, 3 * table._KEPT):
        build([parameter], [parameter], steps=steps)
    assert len(table._tables) == table._KEPT
    gone = weakref.ref(parameter)
    del parameter, grad
    gc.collect()
    assert gone() is None


def test_rows_and_programs():
    parameters = [on_device((10, 264)), on_device((2049,)), on_device((3, 7))]
    locks = [Lock(free(10), free(264)), None, Lock(free(3), free(7))]
    built = build(parameters, parameters, locks)
    rows = built.rows.view(3, table.FIELDS)
    assert rows[:, table.FORM].tolist() == [table.SEPARABLE, table.UNLOCKED, table.GATHERED]
    assert rows[:, table.FIRST_PROGRAM].tolist() == [0, 6, 9]
    assert rows[:, table.FAST].tolist() == [1, 0, 0]
    assert built.programs == len(built.owners) == 10
    assert built.steps == 1
    assert built.codes == 1


def test_the_reserve_gives_no_memory_twice(monkeypatch):
    """A graph copies from the pinned memory at each replay, so this memory must keep its values."""
    monkeypatch.setattr(table._Reserve, "block", torch.zeros(10, dtype=torch.int64))
    monkeypatch.setattr(table._Reserve, "used", 0)
    first, second = (table._Reserve.take(torch.full((4,), number)) for number in (1, 2))
    assert first.tolist() == [1] * 4
    assert second.tolist() == [2] * 4
    assert first.data_ptr() != second.data_ptr()
    table._Reserve.fill(capturing=True)
    assert len(table._Reserve.block) == 10  # nothing is allocated while a graph is captured
