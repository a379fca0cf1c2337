"""Dropout in the kernels: forward and backward draw the same mask from a seed, and never store it."""

import pytest
import torch

import hat_kernels
from hat_kernels import GateForm
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.gated_activation.kernel import gate_of
from tests.hat_kernels.shapes import normal

pytest.importorskip("triton")

CASES = [((20, 70), -1, None), ((2, 5, 37), 1, None), ((3, 20, 4, 5), 1, torch.channels_last), ((33, 7), 0, None)]


def run(x, dy, p, seed=0, **options):
    """(y, dx) of the kernel."""
    leaf = x.detach().requires_grad_()
    torch.manual_seed(seed)
    with hat_kernels.backend("triton"):
        y = hat_kernels.gated_activation(leaf, dropout=p, **options)
    return y.detach(), torch.autograd.grad(y, leaf, dy)[0]


def kept(shape, p, seed=0, **options):
    x = torch.ones(shape, device=DEVICE)
    return run(x, x, p, seed, **options)


def inputs(shape, memory_format=None):
    tensors = (normal(shape, seed=seed).to(DEVICE) for seed in (0, 2))
    return [t.to(memory_format=memory_format) if memory_format else t for t in tensors]


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_share_and_scale(p):
    shape = (96, 256)
    y, dx = kept(shape, p, activation="identity")
    assert torch.equal(y, dx)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    share = (y != 0).double()
    deviation = (p * (1 - p)) ** 0.5
    assert abs(share.mean() - (1 - p)) < 5 * deviation / 24576**0.5
    assert ((share.mean(0) - (1 - p)).abs() < 5.5 * deviation / 96**0.5).all()  # of each column, of each row
    assert ((share.mean(1) - (1 - p)).abs() < 5.5 * deviation / 256**0.5).all()


def test_neighbours_are_independent():
    """Four neighbours share one call of the generator, rows share a range of counters."""
    drop = (kept((64, 256), 0.5)[0] == 0).double() - 0.5
    for a, b in [(drop[:, k:], drop[:, :-k]) for k in (1, 2, 3, 4)] + [(drop[1:], drop[:-1])]:
        assert abs(4 * (a * b).mean()) < 5 / a.numel() ** 0.5


@pytest.mark.parametrize(("shape", "unit_dim", "memory_format"), CASES)
@pytest.mark.parametrize("name", ["embedding", "task"])
def test_the_rest_is_the_reference_with_that_mask(name, shape, unit_dim, memory_format):
    """The mask m of a run without a gate, used in the equation y = act(x) m a / (1 - p)."""
    if name == "task" and unit_dim == 0:
        return
    x, dy = inputs(shape, memory_format)
    gate = gate_of(name, shape[unit_dim], shape[0])
    ones = torch.ones_like(x)
    mask, again = run(ones, ones, 0.25, unit_dim=unit_dim)
    assert torch.equal(mask, again)
    actual = run(x, dy, 0.25, unit_dim=unit_dim, activation="tanh", gate=gate)
    leaf = x.detach().requires_grad_()
    with hat_kernels.backend("reference"):
        y = hat_kernels.gated_activation(leaf, unit_dim=unit_dim, activation="tanh", gate=gate) * mask
    torch.testing.assert_close(actual, (y.detach(), torch.autograd.grad(y, leaf, dy)[0]))
    assert torch.equal((actual[0] == 0) | (mask != 0), torch.ones_like(mask, dtype=torch.bool))


def test_sums_see_the_mask():
    x, dy = inputs((300, 12))
    ones = torch.ones_like(x)
    mask, _ = run(ones, ones, 0.5, activation="identity")
    bias, embedding = (normal((12,), seed=seed).to(DEVICE).requires_grad_() for seed in (1, 3))
    gate = GateForm(embedding=embedding, scale=torch.tensor(2.0, device=DEVICE))
    torch.manual_seed(0)
    with hat_kernels.backend("triton"):
        y = hat_kernels.gated_activation(x, bias, dropout=0.5, activation="silu", gate=gate)
    actual = torch.autograd.grad(y, (bias, embedding), dy)
    y = torch.nn.functional.silu(x + bias) * mask * hat_kernels.gate(gate.embedding, gate.scale)
    torch.testing.assert_close(actual, torch.autograd.grad(y, (bias, embedding), dy), rtol=1e-4, atol=1e-3)


def test_seeds():
    first, again, other_seed = (kept((64, 64), 0.5, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other_seed)
    torch.manual_seed(1)
    with hat_kernels.backend("triton"):
        third, two = (hat_kernels.gated_activation(torch.ones(64, 64, device=DEVICE), dropout=0.5) for _ in range(2))
    assert torch.equal(third, first)
    assert not torch.equal(third, two)  # each call draws its own seed


def test_a_dropped_infinity_is_zero():
    y, _ = run(torch.full((64, 64), torch.inf, device=DEVICE), torch.ones(64, 64, device=DEVICE), 0.5)
    assert set(y.unique().tolist()) == {0.0, torch.inf}
