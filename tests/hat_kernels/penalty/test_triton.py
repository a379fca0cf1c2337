"""The kernels of the penalty against the reference."""

import pytest
import torch

import hat_kernels
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.poison import poisoned
from tests.hat_kernels.shapes import normal
from tests.hat_kernels.tolerance import assert_as_accurate

pytest.importorskip("triton")


def results(scale, grad, *tensors, compensation="published", backend="reference"):
    gates = len(tensors) // 2
    leaves = [t.detach().requires_grad_() for t in tensors[:gates]]
    with hat_kernels.backend(backend):
        value = hat_kernels.penalty(leaves, tensors[gates:], scale, compensation=compensation)
        return [value.detach(), *torch.autograd.grad(value, leaves, grad)]


def inputs(widths, scale, free=lambda width, seed: (normal((width,), seed=seed) > 0).float()):
    embeddings = [normal((width,), seed=seed).clamp(-8 / scale, 8 / scale) for seed, width in enumerate(widths)]
    frees = [free(width, 9 + seed) for seed, width in enumerate(widths)]
    return [t.to(DEVICE) for t in (torch.tensor(scale), torch.tensor(0.7), *embeddings, *frees)]


@pytest.mark.parametrize("compensation", ["published", "exact"])
@pytest.mark.parametrize("scale", [1 / 400, 1.0, 17.0])
@pytest.mark.parametrize("widths", [(1,), (31, 1, 1031), (0, 257), (1025, 2048, 3)])
def test_as_accurate_as_the_reference(widths, scale, compensation):
    arguments = inputs(widths, scale)
    with poisoned():
        actual = results(*arguments, compensation=compensation, backend="triton")
    assert_as_accurate(actual, lambda *each: results(*each, compensation=compensation), *arguments)


def test_nothing_is_free():
    arguments = inputs((5, 7), 2.0, free=lambda width, seed: torch.zeros(width))
    value, *grads = results(*arguments, backend="triton")
    assert value == 0
    assert all((grad == 0).all() for grad in grads)


def test_layouts_and_empty_gates():
    embedding, free = normal((20,)).to(DEVICE)[::2], torch.ones(20, device=DEVICE)[::2]
    scale, grad = torch.tensor(1.0, device=DEVICE), torch.tensor(1.0, device=DEVICE)
    expected = results(scale, grad, embedding.contiguous(), free.contiguous())
    for mine, theirs in zip(results(scale, grad, embedding, free, backend="triton"), expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    nothing = torch.zeros(0, device=DEVICE)
    assert results(scale, grad, nothing, nothing, backend="triton")[0] == 0


def test_two_launches():
    arguments = inputs((5, 7, 9), 2.0)
    with count_launches() as launches:
        results(*arguments, backend="triton")
    assert launches == {"penalty_kernel": 1, "penalty_gradient_kernel": 1}
