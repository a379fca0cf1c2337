"""A branch that is left out for some samples of a batch."""

import pytest
import torch

import hat
from tests.hat.nets import wired


def test_whole_samples_are_dropped_and_the_rest_makes_up_for_them():
    torch.manual_seed(0)
    y = hat.StochasticDepth(0.25)(torch.ones(4000, 3, 2))
    dropped = (y == 0).flatten(1).all(1)
    assert torch.equal(y[~dropped], torch.full_like(y[~dropped], 4 / 3))
    assert abs(dropped.double().mean() - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5  # five standard errors
    assert (y == 0).any(2).any(1).sum() == dropped.sum()


def test_a_dropped_branch_leaves_no_trace():
    """Not where it overflows, nor in the gradient."""
    torch.manual_seed(0)
    x = torch.ones(64, 3).requires_grad_()
    y = hat.StochasticDepth(0.5)(x * torch.tensor([1.0, float("inf"), 1.0]))
    assert not y.isnan().any()
    y[:, ::2].sum().backward()
    assert torch.equal(x.grad[:, 0], y[:, 0])


@pytest.mark.parametrize("module", [hat.StochasticDepth(0.5).eval(), hat.StochasticDepth(0.0)])
def test_nothing_to_do(module):
    x = torch.randn(3, 2)
    assert module(x) is x


@pytest.mark.parametrize("shape", [(0, 3), (5,), (2, 1, 3, 1)])
def test_shapes(shape):
    assert hat.StochasticDepth(0.5)(torch.ones(shape, dtype=torch.bfloat16)).shape == shape
    assert hat.StochasticDepth(0.5)(torch.ones(shape, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_gate_reaches_through_it():
    first, second = hat.HATLinear(3, 4), hat.HATLinear(4, 2)
    body = wired(first, hat.StochasticDepth(0.5), second)
    assert second.inputs == [first.gate]
    assert body.complete()[first.gate]


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_range(p):
    with pytest.raises(ValueError, match=r"p: expected in \[0, 1\), got"):
        hat.StochasticDepth(p)
