"""One warning tells which parameters no two tasks share, if the user should hear of it."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from tests.hat.conversion.zoo import Conv1D, Net

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))


def told(module, **options):
    """The messages of a conversion."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hat.convert(module, X, **options)
    return [str(warning.message) for warning in caught if warning.category is hat.UnlockedWarning]


def computed(width=6, wide=6):
    def forward(self, x):
        return self.head(F.relu(F.relu(self.wide(F.relu(self.one(x)))) @ self.weight.tanh()))

    layers = {"one": nn.Linear(5, wide), "wide": nn.Linear(wide, width), "head": nn.Linear(width, 3)}
    return Net(forward, weight=nn.Parameter(torch.randn(width, width)), **layers)


def test_each_tasks_own_parameters_are_told_with_the_place_that_is_the_reason():
    (message,) = told(computed())
    assert message.startswith(
        "32% of the parameters are shared by no two tasks: weight (32%, each task's own, because of"
    )
    assert "the network (Net, test_unshared.py:" in message
    assert "matmul" in message


def test_less_than_a_tenth_is_not_told():
    assert told(computed(6, 200)) == []


def test_frozen_and_own_parameters_are_told_in_one_warning():
    (message,) = told(computed(), filter=lambda module, name: name != "wide")
    first, second = message.split("; ")
    assert first == "along no gate, so frozen when the first task ends: network.wide.weight, network.wide.bias"
    assert second.startswith("68% of the parameters are shared by no two tasks")
    for part in ("weight (32%, each task's own, because of", "wide.weight (32%, frozen, excluded by `filter`)"):
        assert part in second


def test_a_few_frozen_parameters_are_told_without_shares():
    module = nn.Sequential(nn.Linear(5, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 4), nn.Linear(4, 2))
    (message,) = told(module, filter=lambda part, name: name != "4")
    assert message == "along no gate, so frozen when the first task ends: network.4.weight, network.4.bias"


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_norms_are_not_told(norm):
    """Every task has norms of its own: in a network that is made of them, too."""
    assert told(nn.Sequential(nn.Linear(5, 6), norm(6), nn.ReLU(), norm(6), nn.ReLU(), norm(6), nn.Linear(6, 2))) == []


def test_maps_that_are_followed_are_not_told():
    assert told(nn.Sequential(Conv1D(6, 5), nn.ReLU(), nn.Linear(6, 2))) == []
