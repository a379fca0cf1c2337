"""The penalty against the equation; its errors."""

import pytest
import torch
from torch.autograd import gradcheck

import hat_kernels
from tests.hat_kernels.shapes import normal

WIDTHS = [(1,), (3, 1, 17), (0, 5), (31, 1031)]


def gates(widths, dtype=torch.float32):
    embeddings = [normal((width,), dtype, seed) for seed, width in enumerate(widths)]
    frees = [(normal((width,), seed=9 + seed) > 0).float() for seed, width in enumerate(widths)]
    return embeddings, frees


@pytest.mark.parametrize("widths", WIDTHS)
def test_the_equation(widths):
    embeddings, frees = gates(widths)
    actual = hat_kernels.penalty(embeddings, frees, torch.tensor(3.0))
    a, free = torch.cat(embeddings).double().mul(3).sigmoid(), torch.cat(frees).double()
    assert actual.item() == pytest.approx((a * free).sum().item() / free.sum().item(), rel=1e-6)


@pytest.mark.parametrize("compensation", ["none", "published", "exact"])
def test_the_gradient_is_that_of_the_gates(compensation):
    embeddings, frees = gates((5, 17), torch.float64)
    scale = torch.tensor(2.0, dtype=torch.float64)
    leaves = [e.requires_grad_() for e in embeddings]
    frees = [free.double() for free in frees]
    value = hat_kernels.penalty(leaves, frees, scale, compensation=compensation)
    actual = torch.autograd.grad(value, leaves, torch.tensor(0.7, dtype=torch.float64))
    whole = [hat_kernels.gate(e, scale, compensation=compensation) for e in leaves]
    fraction = (torch.cat(whole) * torch.cat(frees)).sum() / torch.cat(frees).sum()
    for mine, theirs in zip(actual, torch.autograd.grad(0.7 * fraction, leaves), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_gradcheck():
    embeddings, frees = gates((4, 3), torch.float64)
    scale, frees = torch.tensor(1.5, dtype=torch.float64), [free.double() for free in frees]

    def function(*leaves):
        return hat_kernels.penalty(leaves, frees, scale, compensation="none")

    assert gradcheck(function, [e.requires_grad_() for e in embeddings])


def test_nothing_is_free():
    leaves = [torch.randn(4).requires_grad_(), torch.randn(2).requires_grad_()]
    value = hat_kernels.penalty(leaves, [torch.zeros(4), torch.zeros(2)], torch.tensor(400.0))
    assert value == 0
    assert all((grad == 0).all() for grad in torch.autograd.grad(value, leaves))


def test_it_is_differentiable_once():
    leaf = torch.randn(4).requires_grad_()
    value = hat_kernels.penalty([leaf], [torch.ones(4)], torch.tensor(1.0))
    upstream = torch.tensor(1.0, requires_grad=True)
    (grad,) = torch.autograd.grad(value, leaf, upstream, create_graph=True)
    with pytest.raises(RuntimeError, match="marked with @once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("embeddings", "frees", "message"),
    [
        ([], [], "embeddings: expected at least one gate, got none"),
        ([torch.zeros(3)], [], "frees: expected 1, one a gate, got 0"),
        ([torch.zeros(3)], [torch.zeros(2)], r"frees\[0\]: expected \(3,\), got \(2,\)"),
        ([torch.zeros(3, 1)], [torch.zeros(3, 1)], r"embedding: expected shape \(N,\), got \(3, 1\)"),
    ],
)
def test_refused(embeddings, frees, message):
    with pytest.raises(ValueError, match=message):
        hat_kernels.penalty(embeddings, frees, torch.tensor(1.0))


def test_refused_compensation_and_dtype():
    with pytest.raises(ValueError, match="compensation: expected one of"):
        hat_kernels.penalty([torch.zeros(3)], [torch.zeros(3)], torch.tensor(1.0), compensation="some")
    with pytest.raises(TypeError, match=r"embedding: expected float32, got torch\.float16"):
        hat_kernels.penalty([torch.zeros(3).half()], [torch.zeros(3)], torch.tensor(1.0))
