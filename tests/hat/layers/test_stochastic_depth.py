"""Stochastic depth: a branch is dropped for some samples of a batch."""

import pytest
import torch
from torch import nn

from hat.conversion.api import convert_body
from hat.layers.stochastic_depth import StochasticDepth


def test_whole_samples_are_dropped_and_the_others_are_scaled_up():
    torch.manual_seed(0)
    y = StochasticDepth(0.25)(torch.ones(4000, 3, 2))
    dropped = (y == 0).flatten(1).all(1)
    assert torch.equal(y[~dropped], torch.full_like(y[~dropped], 4 / 3))
    assert abs(dropped.double().mean() - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5  # five standard errors
    assert (y == 0).any(2).any(1).sum() == dropped.sum()


def test_a_dropped_branch_leaves_no_trace():
    """This holds for a branch that overflows, and for the gradient."""
    torch.manual_seed(0)
    x = torch.ones(64, 3).requires_grad_()
    y = StochasticDepth(0.5)(x * torch.tensor([1.0, float("inf"), 1.0]))
    assert not y.isnan().any()
    y[:, ::2].sum().backward()
    assert torch.equal(x.grad[:, 0], y[:, 0])


@pytest.mark.parametrize("module", [StochasticDepth(0.5).eval(), StochasticDepth(0.0)])
def test_nothing_to_do(module):
    x = torch.randn(3, 2)
    assert module(x) is x


@pytest.mark.parametrize("shape", [(0, 3), (5,), (2, 1, 3, 1)])
def test_shapes(shape):
    assert StochasticDepth(0.5)(torch.ones(shape, dtype=torch.bfloat16)).shape == shape
    assert StochasticDepth(0.5)(torch.ones(shape, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_gate_reaches_through_it():
    network = nn.Sequential(nn.Linear(3, 4), StochasticDepth(0.5), nn.Linear(4, 2))
    body = convert_body(network, torch.randn(2, 3), head=None)
    gate = body.gates["0"]
    assert body.network.get_submodule("2").inputs == [gate]
    assert body.complete()[gate]


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_range(p):
    with pytest.raises(ValueError, match=r"p: expected in \[0, 1\), got"):
        StochasticDepth(p)
