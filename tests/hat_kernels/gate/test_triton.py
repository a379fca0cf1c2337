"""The kernels of the gate against the reference."""

import pytest
import torch

import hat_kernels
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.poison import poisoned
from tests.hat_kernels.shapes import normal
from tests.hat_kernels.tolerance import assert_as_accurate

pytest.importorskip("triton")

COMPENSATIONS = ["none", "published", "exact"]


def results(embedding, scale, grad, compensation, backend="reference"):
    leaf = embedding.detach().requires_grad_()
    with hat_kernels.backend(backend):
        gate = hat_kernels.gate(leaf, scale, compensation=compensation)
        return [gate.detach(), *torch.autograd.grad(gate, leaf, grad)]


def kernel_results(*arguments):
    with poisoned():
        return results(*arguments, "triton")


@pytest.mark.parametrize("compensation", COMPENSATIONS)
@pytest.mark.parametrize("scale", [1 / 400, 1.0, 17.0, 400.0])
@pytest.mark.parametrize("size", [0, 1, 31, 1031])
def test_as_accurate_as_the_reference(size, scale, compensation):
    """For s e where 1 - a is exact in float32. Saturation has a test of its own below."""
    embedding, scale = normal((size,)).clamp(-6, 6), torch.tensor(scale)
    embedding = torch.where(scale * embedding > 8, 8 / scale, embedding).to(DEVICE)
    inputs = embedding, scale.to(DEVICE), normal((size,), seed=1).to(DEVICE)
    actual = kernel_results(*inputs, compensation)
    assert_as_accurate(actual, lambda *inputs: results(*inputs, compensation), *inputs)


@pytest.mark.parametrize("compensation", COMPENSATIONS)
def test_saturation_floor_and_clamp_are_those_of_the_reference(compensation):
    """The only difference is the rounding of s e: |s e| eps, where |s e| is at most 50 because of the clamp."""
    embedding = torch.linspace(-6, 6, 1201, device=DEVICE)
    for scale in (1 / 400, 1.0, 7.0, 400.0):
        inputs = embedding, torch.tensor(scale, device=DEVICE), torch.ones_like(embedding)
        for actual, expected in zip(kernel_results(*inputs, compensation), results(*inputs, compensation), strict=True):
            near = (
                scale * embedding
            ).abs() < 16  # beyond, 1 - a is a few ulp, and a difference of one ulp is a large relative error
            torch.testing.assert_close(actual[near], expected[near], rtol=1e-4, atol=1e-30, equal_nan=True)
            below = scale * embedding < -16
            torch.testing.assert_close(actual[below], expected[below], rtol=2e-5, atol=1e-30)
            if compensation != "exact" and expected is not None:
                beyond = scale * embedding > 18
                assert torch.equal(actual[beyond], expected[beyond])  # 1 and 0, exactly


def test_nothing_overflows_at_the_clamp():
    embedding = torch.tensor([-6.0, 6.0, 0.0, -0.125, 0.125], device=DEVICE)
    for compensation in COMPENSATIONS:
        actual = kernel_results(embedding, torch.tensor(400.0, device=DEVICE), torch.ones_like(embedding), compensation)
        assert all(torch.isfinite(value).all() for value in actual)


def test_nan_and_layouts():
    scale = torch.tensor(2.0, device=DEVICE)
    with hat_kernels.backend("triton"):
        assert hat_kernels.gate(torch.tensor([torch.nan, 1.0], device=DEVICE), scale).isnan().tolist() == [True, False]
    for embedding in (normal((64,))[::3], normal((1,)).expand(5), normal((8, 3)).t()[1]):
        embedding = embedding.to(DEVICE)
        actual = kernel_results(embedding, scale, torch.ones((), device=DEVICE).expand(embedding.shape), "published")
        dense = embedding.contiguous()
        assert all(
            torch.equal(a, b)
            for a, b in zip(actual, kernel_results(dense, scale, torch.ones_like(dense), "published"), strict=True)
        )


def test_one_launch_each_way():
    embedding, scale = normal((1031,)).to(DEVICE), torch.tensor(2.0, device=DEVICE)
    with count_launches() as launches:
        kernel_results(embedding, scale, torch.ones_like(embedding), "published")
    assert launches == {"gate_forward": 1, "gate_backward": 1}


@pytest.mark.parametrize("compensation", COMPENSATIONS)
def test_opcheck(compensation):
    embedding, scale = normal((7,)).to(DEVICE), torch.tensor(2.0, device=DEVICE)
    kernel_results(embedding, scale, torch.ones_like(embedding), compensation)  # registers the operators
    arguments = (embedding.requires_grad_(), scale, 400.0, compensation)
    torch.library.opcheck(torch.ops.hat_kernels.gate, arguments)
    torch.library.opcheck(torch.ops.hat_kernels.gate_backward, (embedding.detach(), embedding.detach(), *arguments[1:]))


def test_compile():
    embedding, scale = normal((7,)).to(DEVICE).requires_grad_(), torch.tensor(2.0, device=DEVICE)

    def step(embedding):
        return (hat_kernels.gate(2 * embedding, scale) ** 2).sum()

    with hat_kernels.backend("triton"):
        expected = torch.autograd.grad(step(embedding), embedding)
        actual = torch.autograd.grad(torch.compile(step, fullgraph=True, backend="aot_eager")(embedding), embedding)
    torch.testing.assert_close(actual, expected)


def test_a_second_backward_is_refused():
    embedding = normal((7,)).to(DEVICE).requires_grad_()
    with hat_kernels.backend("triton"):
        gate = hat_kernels.gate(embedding, torch.tensor(2.0, device=DEVICE))
    (gradient,) = torch.autograd.grad(gate.sum(), embedding, create_graph=True)
    with pytest.raises(RuntimeError, match="gate: differentiable once"):
        gradient.sum().backward()
