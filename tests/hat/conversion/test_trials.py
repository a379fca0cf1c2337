"""Trials of moved units: a few orders stand for all orders, and nothing is drawn."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import hat
from hat.conversion.trials import _changes, _orders, vary
from hat.network.tolerance import varied
from hat.tracing.different import AllDifferent
from hat.units.gate import Gate
from hat.units.state import State


def gates_of(*lengths):
    """One gate for every tuple of lengths of segments."""
    gates = []
    for segments in lengths:
        numbers = torch.arange(len(segments)).repeat_interleave(torch.tensor(segments))
        gates.append(Gate(sum(segments), segments=numbers))
    return gates


def size_of_group(generators):
    found, new = {generators[0]}, [generators[0]]
    while new:
        new = list({tuple(one[index] for index in other) for one in new for other in generators} - found)
        found.update(new)
    return len(found)


@pytest.mark.parametrize(
    ("lengths", "share"),
    [
        *[(((n,),), 1) for n in (1, 2, 3, 4, 5, 6)],
        *[(((n, n),), 1) for n in (2, 3, 4, 5)],
        *[(((n,), (n,)), 1) for n in (2, 3, 4)],
        (((2, 2), (2,)), 1),
        (((1, 1), (4,)), 1),
        (((2,), (3,)), 2),  # tied by signs alone
        (((3, 3), (3,)), 2),
    ],
)
def test_the_orders_that_are_tried_make_every_order(lengths, share):
    gates = gates_of(*lengths)
    generators = []
    for orders in _orders(gates):
        first = itertools.accumulate((gate.units for gate in gates), initial=0)
        generators.append(tuple(int(i) + f for gate, f in zip(gates, first, strict=False) for i in orders[gate]))
    every = math.prod(math.factorial(n) for segments in lengths for n in segments)
    assert size_of_group(generators) * share == every


@pytest.mark.parametrize(("segments", "runs"), [(0, 0), (1, 2), (2, 2), (3, 3), (6, 3), (7, 4), (144, 8)])
def test_few_runs_are_enough(segments, runs):
    assert len(list(_orders(gates_of(*[(3,)] * segments)))) == runs


class Two(nn.Module):
    """Two layers, and a function of their units."""

    def __init__(self, function, units):
        super().__init__()
        self.one, self.two, self.function = nn.Linear(3, units), nn.Linear(3, units), function

    def forward(self, x):
        return self.function(self.one(x).tanh(), self.two(x).tanh())


def changes(function, units):
    body = Two(function, units).double()
    gates = []
    for layer in (body.one, body.two):
        gate = Gate(units)
        gate.attach(layer, "weight", 0)
        gate.attach(layer, "bias", 0)
        gates.append(gate)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.copy_(
                varied(torch.zeros_like(parameter), AllDifferent().around_zero(parameter.shape).double() * 20)
            )
    model = SimpleNamespace(body=body, state=State(), outputs=None)
    before = [parameter.clone() for parameter in body.parameters()]
    x = (AllDifferent().take((2, 3)).double(),)
    with torch.no_grad():
        answer = _changes(model, gates, x)
        assert [_changes(model, [gate], x) for gate in gates].count(True) in (0, 1, 2)
    assert all(map(torch.equal, before, body.parameters()))
    return answer


def powers(units):
    return torch.arange(1, units + 1, dtype=torch.float64).sqrt()


BAD = {
    "tied one to one": lambda a, b: (a * b).sum(-1),
    "tied, one moved on": lambda a, b: (a * b.roll(1, -1)).sum(-1),
    "tied in reverse": lambda a, b: (a * b.flip(-1)).sum(-1),
    "only rolls are good": lambda a, b: (a * a.roll(1, -1)).sum(-1) + b.sum(-1),
    "only the last has its place": lambda a, b: a.sum(-1) + b[..., -1],
    "only the first has its place": lambda a, b: a.square().sum(-1) + b[..., 0],
    "only the first pair is one": lambda a, b: a[..., 0] * a[..., 1] + a.sum(-1) + b.sum(-1),
    "every unit has its place": lambda a, b: (a * powers(a.shape[-1])).sum(-1) + b.sum(-1),
    "largest of pairs": lambda a, b: torch.maximum(a, b).sum(-1),
}
GOOD = {
    "sums": lambda a, b: a.sum(-1) * b.square().sum(-1),
    "largest": lambda a, b: a.amax(-1) + b.sort(-1).values[..., 0],
    "all products": lambda a, b: (a[..., :, None] * b[..., None, :]).square().sum((-1, -2)),
}


@pytest.mark.parametrize("units", [2, 3, 4, 5, 8, 64])
@pytest.mark.parametrize("name", BAD)
def test_an_order_that_changes_the_answer_is_seen(name, units):
    rolled_pair = name == "only rolls are good" and units <= 3  # of so few units, all pairs are neighbours
    pair = name == "only the first pair is one" and units == 2
    assert changes(BAD[name], units) == (not rolled_pair and not pair)


@pytest.mark.parametrize("units", [2, 3, 4, 5, 8, 64])
@pytest.mark.parametrize("name", GOOD)
def test_an_order_that_changes_nothing_is_good(name, units):
    assert not changes(GOOD[name], units)


def test_equal_weights_become_different():
    for value in (0.0, 1.0, -1.0, -1 / 6, 1e-8, 30.0):
        values = torch.full((50, 20), value, dtype=torch.float64)
        assert len(varied(values, AllDifferent().around_zero(values.shape)).unique()) == 1000
    assert (varied(torch.zeros(5), AllDifferent().take((5,))) >= 0).all()


def test_a_trial_depends_on_no_random_number():
    def trial(seed):
        torch.manual_seed(0)
        model = hat.convert(nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 2)), torch.randn(3, 5))
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        vary(model)
        assert torch.equal(torch.get_rng_state(), before)
        return [parameter.clone() for parameter in model.body.parameters()]

    assert all(map(torch.equal, trial(1), trial(2)))
