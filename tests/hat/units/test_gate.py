"""The gate as a module, and its wiring to the parameters along its axis."""

import copy

import pytest
import torch
from torch import nn

import hat
from hat.network.movable import segments
from hat.units.gate import Gate
from hat.units.locks import frozen_lock, gates, locks, unlocked
from hat.units.state import OPEN, PLAIN, Finished, GateConfig, PerSample, State
from hat_kernels.lock import rate
from tests.hat.nets import use


def gate_with(embedding, **config):
    gate = Gate(len(embedding))
    gate.share(State(GateConfig(**config)))
    with torch.no_grad():
        gate.embedding.copy_(torch.tensor(embedding))
    return gate


@pytest.mark.parametrize("units", [0, -3])
def test_units(units):
    with pytest.raises(ValueError, match=f"units: expected at least 1, got {units}"):
        Gate(units)


def test_multiplies_along_its_dimension():
    gate = Gate(3, unit_dim=1)
    gate.state.set_progress(0.01)
    x = torch.randn(2, 3, 4)
    assert torch.equal(gate(x), x * torch.sigmoid(gate.state.scale * gate.embedding).view(1, 3, 1))
    x = torch.randn(2, 4, 3)
    gate.unit_dim = -1
    assert torch.equal(gate(x), x * torch.sigmoid(gate.state.scale * gate.embedding))


def test_commits_binary_masks():
    gate = gate_with([-6.0, -1e-30, -0.0, 0.0, 1e-30, 6.0])
    gate.commit()
    assert gate.masks.tolist() == [[0, 0, 0, 0, 1, 1]]
    assert gate.used.tolist() == [0, 0, 0, 0, 1, 1]
    with torch.no_grad():
        gate.embedding.copy_(torch.tensor([1.0, -1, -1, -1, -1, -1]))
    gate.commit()
    assert gate.masks.shape == (2, 6)
    assert gate.used.tolist() == [1, 0, 0, 0, 1, 1]
    assert gate.free.tolist() == [0, 1, 1, 1, 0, 0]


def test_commits_published_masks():
    gate = gate_with([-0.01, 0.0, 0.01], mask_mode="published")
    gate.commit()
    assert torch.equal(gate.masks[0], torch.sigmoid(400 * gate.embedding.detach()))
    assert torch.equal(gate.used, gate.masks[0])


def test_form_follows_the_task():
    gate = gate_with([-1.0, 1.0])
    gate.commit()
    config = gate.state.config
    assert gate.form() == (gate.embedding, gate.state.scale, None, None, config.s_max, config.compensation)
    with gate.state.answering(Finished(0)):
        assert gate.form().mask.tolist() == [0, 1]
    x = torch.ones(2, 2)
    with gate.state.answering(PerSample(torch.tensor([0, 0]))):
        assert torch.equal(gate.form().mask, gate.masks)
        assert gate(x).tolist() == [[0, 1], [0, 1]]
    for answer in (OPEN, PLAIN):
        with gate.state.answering(answer):
            assert gate.form() is None
            assert torch.equal(gate(x), x)
    gate.eval()
    assert gate(x).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("init", ["normal", "uniform"])
def test_every_task_starts_from_a_new_embedding_in_the_same_memory(init):
    gate = Gate(10_000)
    gate.share(State(GateConfig(init=init)))
    parameter = gate.embedding
    gate.begin_task()
    first = gate.embedding.detach().clone()
    gate.begin_task()
    assert gate.embedding is parameter
    assert not torch.equal(first, gate.embedding)
    low, high = first.min().item(), first.max().item()
    if init == "uniform":
        assert 0 <= low < 0.01
        assert 1.99 < high <= 2
    else:
        assert low < -3 < 3 < high
        assert abs(first.mean().item()) < 5 / 100  # five standard errors
        assert abs(first.std().item() - 1) < 5 / (2 * 10_000) ** 0.5


def test_attach_checks_lengths():
    gate, linear = Gate(4), nn.Linear(12, 8)
    gate.attach(linear, "weight", 1, repeat=3)
    gate.attach(linear, "weight", 0, repeat=2)
    with pytest.raises(ValueError, match=r"weight: expected 4 units x 1 along dimension 0, got \(8, 12\)"):
        gate.attach(linear, "weight", 0)
    assert len(gate.members) == 2
    gate.attach(nn.Linear(3, 4, bias=False), "bias", 0)  # the layer has no bias, so there is nothing to lock


def test_a_table_does_not_read_the_units():
    gate, table, linear = Gate(4), nn.Embedding(3, 4), nn.Linear(4, 4)
    gate.attach(table, "weight", 1, table=True)
    gate.attach(linear, "weight", 1)
    assert [gate.reads(module) for module in (table, linear)] == [False, True]
    gate.attach(linear, "weight", 0)
    assert [member.produces for member in gate.members] == [True, False, True]


def test_segments():
    numbers = torch.tensor([0, 0, 1, 1])
    gate = Gate(4, segments=numbers)
    assert "segments" not in gate.state_dict()
    on_meta = copy.deepcopy(gate).to("meta")  # `to_empty` and a state give values to parameters and buffers only
    for other in (copy.deepcopy(gate).half(), copy.deepcopy(gate).double(), on_meta, on_meta.to_empty(device="cpu")):
        assert torch.equal(other.segments, numbers)
    assert [places.tolist() for places in segments(gate)] == [[0, 1], [2, 3]]
    assert [places.tolist() for places in segments(Gate(4))] == [[0, 1, 2, 3]]


@pytest.mark.parametrize("segments", [torch.zeros(3, dtype=torch.int64), torch.zeros(4), torch.tensor(0)])
def test_segments_of_another_kind(segments):
    with pytest.raises(ValueError, match=r"segments: expected torch.int64 of \(4,\), got torch\.\w+ of \("):
        Gate(4, segments=segments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_mode": "soft"}, r"mask_mode: expected one of \('binary', 'published'\), got 'soft'"),
        ({"compensation": "none"}, "compensation: expected one of .*, got 'none'"),
        ({"init": "zeros"}, "init: expected one of .*, got 'zeros'"),
        ({"s_max": 1.0}, r"s_max: expected a finite number > 1, got 1\.0"),
        ({"s_max": float("inf")}, "s_max: expected a finite number > 1, got inf"),
        ({"s_max": float("nan")}, "s_max: expected a finite number > 1, got nan"),
        ({"limit": 0.0}, r"limit: expected a finite number > 0, got 0\.0"),
        ({"limit": float("nan")}, "limit: expected a finite number > 0, got nan"),
    ],
)
def test_config(options, message):
    with pytest.raises(ValueError, match=message):
        GateConfig(**options)


def test_locks_of_a_shared_gate():
    """In a residual stream, one gate locks the two layers that make the units and the layer that reads them."""
    stem = hat.HATLinear(3, 4)
    up = hat.HATLinear(4, 5, inputs=stem.gate)
    down = hat.HATLinear(5, 4, gate=stem.gate, inputs=up.gate)
    body = nn.ModuleList([stem, up, down])
    assert len(gates(body)) == 2
    with torch.no_grad():
        use(stem.gate, [1, 0, 1, 0])
        use(up.gate, [1, 1, 0, 0, 0])
    locks_by_parameter = locks(body)
    assert torch.equal(locks_by_parameter[down.weight].rows, stem.gate.free)
    assert torch.equal(locks_by_parameter[down.weight].columns, up.gate.free)
    assert torch.equal(locks_by_parameter[up.weight].columns, stem.gate.free)
    assert locks_by_parameter[stem.weight].columns is None
    assert unlocked(body) == {}


def test_frozen_lock_lets_nothing_move():
    for shape in ((3,), (3, 4), (2, 3, 4), ()):
        parameter = torch.ones(shape)
        assert not rate(frozen_lock(parameter), parameter).any()
