"""The table of the axes of a network. The tests count every number again in a slow way."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hat
from hat.training import PlainModel
from hat.units.locks import unlocked
from hat_kernels.lock import rate
from tests.hat.nets import Residual, networks, outputs_of, use, wired

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]


def learned(body, tasks=2, share=3, **options):
    """A model that has learned tasks, each of which uses every third unit."""
    model = hat.HATModel(body, **options)
    for task in range(tasks):
        model.begin_task(classes=2 + task)
        with torch.no_grad():
            for gate in model.gates.values():  # which have moved units since
                gate.embedding.copy_(torch.where((gate.origin + task) % share == 0, 1.0, -1.0))
        model.end_task()
    return model


def chained():
    return wired(hat.HATConv2d(1, 6, 3), nn.Flatten(), hat.HATLinear(96, 9), hat.HATLinear(9, 7))


def test_a_chain():
    found = hat.summary(learned(chained()))
    assert [(row.name, row.units, row.used, row.tasks) for row in found.rows] == [
        ("0.gate", 6, 4, 2),
        ("2.gate", 9, 6, 2),
        ("3.gate", 7, 5, 2),
    ]
    assert [row.locked for row in found.rows] == pytest.approx([4 / 6, 6 / 9, 5 / 7])
    assert [(row.made_by, row.read_by) for row in found.rows] == [
        (("0",), ("2",)),
        (("2",), ("3",)),
        (("3",), ("heads",)),
    ]
    assert found.shared == 6 * 9 + 6 + 96 * 9 + 9 + 9 * 7 + 7
    assert found.locked == (4 * 9 + 4) + (6 * 4 * 16 + 6) + (5 * 6 + 5)
    assert found.locked_share == found.locked / found.shared
    assert (found.tasks, found.heads, found.head_elements) == (2, 2, 8 * 2 + 8 * 3)
    assert (found.own, found.frozen) == (0, 0)


def test_its_table():
    lines = str(hat.summary(learned(chained()))).splitlines()
    assert lines[0].split() == ["axis", "units", "used", "locked", "tasks", "own", "made", "by", "read", "by"]
    assert lines[2] == "0.gate      6     4   66.7%      2    0  0        2"
    assert lines[4] == "3.gate      7     5   71.4%      2    0  3        heads"
    assert set(lines[1]) == set(lines[5]) == {"-"}
    assert lines[7].split() == ["shared", "parameters", "1,003", "46.4%", "of", "them", "locked"]
    assert "heads" in lines[9]
    assert "40 parameters" in lines[9]
    assert not any(line != line.rstrip() for line in lines)


def test_many_layers_are_counted_not_listed():
    body = Residual(4, 5, [3, 3, 3], activation="relu", bias=True)
    model = learned(body, features=5, outputs=body.stem.gate)
    stream = hat.summary(model).rows[0]
    assert stream.made_by == ("stem", "down.0", "down.1", "down.2")
    assert stream.read_by == ("up.0", "up.1", "up.2", "heads")
    assert "stem, down.0 and 2 more  up.0, up.1 and 2 more" in str(hat.summary(model))


def test_a_converted_network():
    torch.manual_seed(0)
    model = learned(hat.models.resnet18((1, 8, 8), width=3), tasks=1)
    found = hat.summary(model)
    assert [row.name for row in found.rows] == list(model.gates)
    stem, last = found.rows[0], found.rows[-2]
    assert stem.made_by == ("network.stem.0", "network.stage1.0.branch.3", "network.stage1.1.branch.3")
    assert "network.stage2.0.shortcut.0" in stem.read_by
    assert stem.own == ("network.stem.1", "network.stage1.0.branch.4", "network.stage1.1.branch.4")
    assert all(isinstance(model.body.get_submodule(name), hat.HATBatchNorm2d) for name in stem.own)
    assert last.read_by == ("network.stage4.1.branch.0", "heads")
    assert found.own == 2 * (5 * 3 + 5 * 6 + 5 * 12 + 5 * 24)
    assert "network." not in str(found)
    assert "stem.0, stage1.0.branch.3 and 1 more" in str(found)


@settings(deadline=None, max_examples=20)
@given(networks, st.integers(0, 2), st.integers(0, 10_000))
def test_counts_are_those_of_the_rates(network, tasks, seed):
    body, _, features = network
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = hat.HATModel(body, features=features, outputs=outputs_of(body))
        for _ in range(tasks):
            model.begin_task(2)
            model.end_task()
        found = hat.summary(model)
    locks = model.locks()
    assert found.shared == sum(p.numel() for p in locks)
    zero = [(rate(lock, p).expand_as(p) == 0).sum().item() for p, lock in locks.items() if lock is not None]
    assert found.locked == sum(zero)
    assert found.frozen == sum(p.numel() for p in unlocked(body).values())
    embeddings = sum(embedding.numel() for embedding in model.embeddings)
    assert found.shared + found.own + found.frozen + embeddings == sum(p.numel() for p in body.parameters())
    assert [row.used for row in found.rows] == [int(gate.used.sum()) for gate in model.gates.values()]


def test_what_came_locked_is_used_by_no_task():
    model = hat.convert(
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(2, 4), pretrained="locked"
    )
    (row,) = hat.summary(model).rows
    assert (row.used, row.tasks, row.locked) == (0, 0, 1.0)
    assert hat.summary(model).locked_share == 1.0


def test_while_a_task_is_learned_and_with_soft_masks():
    model = learned(chained(), tasks=1)
    model.begin_task(3)
    found = hat.summary(model)
    assert model.learning
    assert model.training
    assert (found.tasks, found.heads) == (1, 2)
    assert [row.used for row in found.rows] == [2, 3, 3]
    soft = learned(chained(), config=hat.GateConfig(mask_mode="published", s_max=2.0))
    assert hat.summary(soft).locked == 0
    assert [row.locked for row in hat.summary(soft).rows] == [0.0] * 3
    assert [row.used for row in hat.summary(soft).rows] == [4, 6, 5]


def test_a_task_that_uses_nothing_is_not_counted():
    model = hat.HATModel(chained())
    use(model.body[0].gate, [0] * 6)
    use(model.body[2].gate, [0] * 8 + [1])
    found = hat.summary(model)
    assert [(row.used, row.tasks) for row in found.rows[:2]] == [(0, 0), (1, 1)]


def test_along_no_axis():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.shift = hat.HATLinear(3, 4), nn.Parameter(torch.zeros(2, 3))

        def forward(self, x):
            return self.linear(x + self.shift.sum(0))

    with pytest.warns(hat.UnlockedWarning):
        model = hat.HATModel(Shifted())
    found = hat.summary(model)
    assert (found.frozen, found.shared) == (6, 16)
    assert "frozen when the first task ends" in str(found)


def test_without_attention_nothing_is_locked():
    model = PlainModel(chained())
    model.begin_task(2)
    model.end_task()
    assert hat.summary(model).locked == 0


def test_what_is_no_model():
    with pytest.raises(TypeError, match=r"model: expected a hat.HATModel, got Sequence"):
        hat.summary(chained())
