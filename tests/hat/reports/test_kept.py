"""The weights that a task keeps: counted by hand. All other weights may have any value."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hat
from hat.units.locks import sides
from hat.units.per_task import per_task
from hat_kernels.lock import rate
from tests.hat.nets import networks, outputs_of, wired

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]


def learning(body, units, *, classes=2, **options):
    """A model that is learning a task, which uses the given number of units at the front of every axis."""
    model = hat.HATModel(body, **options)
    model.begin_task(classes)
    with torch.no_grad():
        for gate, count in zip(model.gates.values(), units, strict=True):
            gate.embedding.copy_(torch.where(torch.arange(gate.units) < count, 1.0, -1.0))
    return model


def test_a_chain_by_hand():
    body = wired(hat.HATConv2d(1, 6, 3), nn.Flatten(), hat.HATLinear(96, 9), hat.HATLinear(9, 7))
    found = hat.weights_kept(learning(body, (4, 5, 3), classes=3))
    assert found.kept == (4 * 9 + 4) + (5 * 4 * 16 + 5) + (3 * 5 + 3) + (3 * 3 + 3)
    assert found.total == (6 * 9 + 6) + (9 * 96 + 9) + (7 * 9 + 7) + (3 * 7 + 3)
    assert found.share == found.kept / found.total
    assert str(found) == "395 of 1,027 weights kept, 38.46%"


def test_groups_norms_and_what_lies_along_no_axis():
    body = wired(hat.HATConv2d(1, 4, 3, bias=False), hat.HATBatchNorm2d(4), hat.HATConv2d(4, 6, 1, groups=2))
    model = learning(body, (3, 2), features=6, outputs=body[2].gate)
    assert hat.weights_kept(model).kept == 3 * 9 + 2 * 3 + (2 * 2 + 2) + (2 * 2 + 2)  # both units of the first group

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.shift = hat.HATLinear(3, 4), nn.Parameter(torch.zeros(2, 3))

        def forward(self, x):
            return self.linear(x + self.shift.sum(0))

    with pytest.warns(hat.UnlockedWarning):
        model = learning(Shifted(), (1,))
    assert hat.weights_kept(model) == hat.WeightsKept(kept=6 + (3 + 1) + (2 * 4 + 2), total=6 + 16 + 10)


def test_side_by_side_in_a_converted_network():
    class Concatenated(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.last = nn.Linear(3, 4), nn.Linear(3, 2), nn.Linear(9, 5)
            self.head = nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.last(torch.cat([self.one(x).relu(), self.two(x).relu(), x], 1)).relu())

    model = hat.convert(Concatenated(), torch.randn(2, 3))
    model.begin_task(2)
    units = {"one": 3, "two": 1, "last": 2}
    with torch.no_grad():
        for name, gate in model.gates.items():
            gate.embedding.copy_(torch.where(torch.arange(gate.units) < units[name.rpartition(".")[2]], 1.0, -1.0))
    assert hat.weights_kept(model).kept == 3 * 4 + 1 * 4 + 2 * (3 + 1 + 3 + 1) + (2 * 2 + 2)


@settings(max_examples=25)
@given(networks.filter(lambda network: not per_task(network[0])), st.integers(0, 10_000))  # norms: in the next test
def test_what_is_not_kept_may_be_anything(network, seed):
    """Other weights do not change the logits. A finished task keeps as many weights as before its units moved."""
    body, shape, features = network
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = hat.HATModel(body, features=features, outputs=outputs_of(body))
        model.begin_task(2)
        first = hat.weights_kept(model)
        model.end_task()
        model.begin_task(3)
    assert hat.weights_kept(model, 0) == first
    found, x = hat.weights_kept(model), torch.randn(3, *shape)
    before = model.eval()(x)
    off = {gate: 1 - gate.hardened() for gate in model.gates.values()}
    shared = sides(body, off)
    removed = 0
    with torch.no_grad():
        for parameter, side in shared.items():
            gone = rate(side.lock, parameter).expand_as(parameter) > 0
            parameter.copy_(torch.where(gone, torch.randn_like(parameter), parameter))
            removed += int(gone.sum())
        if model.outputs is not None:
            gone = off[model.outputs].repeat_interleave(model.features // model.outputs.units) > 0
            model.head.weight[:, gone] = 7.0
            removed += 3 * int(gone.sum())
    assert removed == found.total - found.kept
    assert torch.equal(model(x), before)


def test_a_residual_network_with_norms():
    model = hat.HATModel(hat.models.resnet18((1, 8, 8), width=3))
    model.begin_task(2)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.fill_(1.0)
    everything = hat.weights_kept(model)
    learned = [p for name, p in model.named_parameters() if not name.endswith("embedding")]
    assert everything.kept == everything.total == sum(p.numel() for p in learned)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.fill_(-1.0)
    assert hat.weights_kept(model).kept == 2  # the bias of the head


def test_what_cannot_be_counted():
    model = learning(wired(hat.HATLinear(3, 4)), (2,))
    model.end_task()
    with pytest.raises(RuntimeError, match="task: no task is being learned"):
        hat.weights_kept(model)
    with pytest.raises(ValueError, match=r"^task: expected 0 to 0, got 1$"):
        hat.weights_kept(model, 1)
    with pytest.raises(TypeError, match=r"^task: expected an int, got bool$"):
        hat.weights_kept(model, True)
    with pytest.raises(TypeError, match=r"^model: expected a hat.HATModel, got Sequence$"):
        hat.weights_kept(model.body)
    hat.forget(model, 0)
    with pytest.raises(ValueError, match=r"^task: expected a task that is not forgotten, got 0$"):
        hat.weights_kept(model, 0)


def test_a_task_of_a_model_that_has_none():
    with pytest.raises(ValueError, match="task: expected a task, of which there are none, got 0"):
        hat.weights_kept(hat.HATModel(hat.models.mlp(4, (3,))), 0)
