"""How many units may go, and which units a network with unknown parts keeps."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.resizing.fitting import first_units, fit, needed
from hat.resizing.resize import resize
from hat.resizing.shrink import shrunk
from hat.resizing.trial import misfits
from hat.units.state import Finished
from tests.hat.conversion.checks import convert
from tests.hat.conversion.zoo import Net
from tests.hat.nets import Attention, wired

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]


def fitted(model, *used):
    """How many units of every gate stay if a task uses the given units."""
    counts = torch.zeros(sum(gate.units for gate in model.gates.values()), dtype=torch.int64)
    for first, own in zip(first_units(model.gates.values()).values(), used, strict=True):
        counts[[first + unit for unit in own]] = 1
    found = fit(model, counts, needed(model))
    return [found[first : first + gate.units].nonzero().flatten().tolist() for gate, first in numbers_of(model)]


def numbers_of(model):
    return list(first_units(model.gates.values()).items())


def test_at_least_one_unit_of_every_gate_stays():
    model = hat.HATModel(wired(hat.HATLinear(3, 4), hat.HATLinear(4, 5)))
    assert fitted(model, [], [1, 3]) == [[0], [1, 3]]


def test_a_gate_with_unknown_uses_stays_whole():
    model = hat.HATModel(wired(hat.HATLinear(3, 4), nn.Softmax(-1), hat.HATLinear(4, 5)))
    assert fitted(model, [2], [1]) == [[0, 1, 2, 3], [1]]


def test_groups_of_a_convolution_are_as_long_as_the_longest():
    body = wired(hat.HATConv2d(1, 6, 1), hat.HATConv2d(6, 4, 1, groups=2), nn.Flatten(), hat.HATLinear(4, 3))
    assert fitted(hat.HATModel(body), [0, 1, 4], [3], [0]) == [[0, 1, 3, 4], [0, 3], [0]]


def test_heads_are_as_long_as_the_longest():
    model = convert(nn.Sequential(nn.Linear(3, 6), Attention(6, 2)), torch.randn(2, 4, 3), head=None)
    assert list(model.gates) == ["gates.0", "gates.1_query", "gates.1_value", "gates.1_out"]
    assert fitted(model, [2], [5, 4], [], [0]) == [[2], [0, 1, 4, 5], [0, 3], [0]]


def qkv(self, x):
    q, k, v = self.qkv(x).view(x.shape[0], 2, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
    return self.last(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))


def test_no_more_units_stay_than_two_even_dimensions_need():
    """Queries, keys and values as many, every head as many: filled from one end, one row would pull the other up."""
    model = convert(Net(qkv, qkv=nn.Linear(4, 18), last=nn.Linear(12, 4)).double(), torch.randn(2, 2, 4).double(),
                    head=None)  # fmt: skip
    assert fitted(model, [5], [3, 4], []) == [[0, 1, 3, 5], [0, 1, 3, 4], [0]]


def test_a_trial_names_the_units_where_networks_part():
    model = convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)).double(), torch.randn(2, 3).double(),
                    head=None)  # fmt: skip
    model.begin_task(2)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.copy_(torch.where(gate.origin < 2, 1.0, -1.0))
    model.end_task()
    counts = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0, 0])
    small = copy.deepcopy(model)
    resize(small, counts)
    assert misfits(model.body, small.body, counts, Finished(0)) is None
    with torch.no_grad():
        small.body.network.get_submodule("2").weight[0] += 0.1
    assert misfits(model.body, small.body, counts, Finished(0)).tolist() == [2, 3]  # its inputs that are gone
    assert [gate.units for gate in shrunk(model, [0]).gates.values()] == [2, 2]
