"""The gates for units, and the parameters that lie along them."""

import torch
from torch import nn

from hat.conversion.api import convert_body
from hat.conversion.axes import attach, find_axes
from hat.conversion.units import Units
from hat.conversion.values import Claim
from tests.hat.conversion.zoo import Net


def test_a_gate_for_units_of_the_same_dimensions():
    units = Units()
    rows, columns = units.new(5), units.new(5)
    units.unite(rows, columns.flip(0))
    more = units.new(3)
    claims = [Claim("one", "weight", 0, rows), Claim("two", "weight", 1, torch.cat([more, columns]))]
    axes = find_axes(units, claims, [more.view(1, 3)])
    assert {name: gate.units for name, gate in axes.gates.items()} == {"one": 5, "two": 3}
    assert axes.index(rows).tolist() == [0, 1, 2, 3, 4]
    assert axes.index(columns).tolist() == [4, 3, 2, 1, 0]
    assert axes.index(torch.tensor([0])).tolist() == [-1]
    gates, index = axes.within(torch.cat([more, torch.zeros(1, dtype=torch.int64)]))
    assert gates == [axes.gates["two"]]
    assert index.tolist() == [0, 1, 2, 3]
    one, two = nn.Linear(2, 5), nn.Linear(8, 2)
    attach(axes, claims[0], one)
    attach(axes, claims[1], two)
    (row, column), (column_of_two,) = axes.gates["one"].members, axes.gates["two"].members
    assert (row.dim, row.places) == (0, None)
    assert column.places.tolist() == [7, 6, 5, 4, 3]
    assert column_of_two.places.tolist() == [0, 1, 2]


def test_units_that_a_claim_has_more_often_have_another_gate():
    units = Units()
    rows = units.new(4)
    claims = [Claim("a.b", "weight", 0, rows), Claim("c", "weight", 1, torch.cat([rows, rows[:2]]))]
    axes = find_axes(units, claims, [])
    assert {name: gate.units for name, gate in axes.gates.items()} == {"a_b": 2, "a_b__2": 2}
    layer = nn.Linear(6, 2)
    attach(axes, claims[1], layer)
    members = [(m.repeat, m.places.tolist()) for gate in axes.gates.values() for m in gate.members]
    assert members == [(2, [0, 4, 1, 5]), (1, [2, 3])]


def test_parts_are_segments():
    units = Units()
    rows = units.new(4)
    units.part(rows, torch.tensor([0, 0, 1, 1]))
    (gate,) = find_axes(units, [Claim("a", "weight", 0, rows)], []).gates.values()
    one, two, three, four = gate.segments.tolist()
    assert one == two != three == four


def test_nothing_has_units():
    assert find_axes(Units(), [], []).gates == {}


def test_the_example_of_the_analysis():
    """The network in the docstring of `hat.conversion.analysis` has the gates that the docstring shows."""

    def forward(self, x):
        h = torch.relu(self.conv(x))
        h = h + self.inner(h)
        return self.linear(h.flatten(1))

    parts = {"conv": nn.Conv2d(1, 2, 3, padding=1), "inner": nn.Conv2d(2, 2, 3, padding=1), "linear": nn.Linear(8, 3)}
    body = convert_body(Net(forward, **parts), torch.randn(1, 1, 2, 2), head=None)
    names = {module: name for name, module in body.network.named_modules()}
    members = {
        gate_name: [f"{names[member.module]}.{member.name} {member.dim} {member.repeat}" for member in gate.members]
        for gate_name, gate in body.gates.items()
    }
    assert members == {
        "conv": [
            *("conv.weight 0 1", "conv.bias 0 1", "inner.weight 1 1", "inner.weight 0 1", "inner.bias 0 1"),
            "linear.weight 1 4",
        ],
        "linear": ["linear.weight 0 1", "linear.bias 0 1"],
    }
    assert body.network.conv.activation == "relu"
    assert [body.network.get_submodule(name).gated for name in parts] == [True, True, True]
