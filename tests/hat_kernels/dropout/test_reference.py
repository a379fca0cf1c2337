"""Dropout from packed random bits."""

import pytest
import torch

from hat_kernels import dropout


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 0.999])
def test_keeps_the_share_and_the_expectation(probability):
    y = dropout(torch.ones(1000, 1000), probability)
    share_kept = (y != 0).double().mean().item()
    deviation = 5 * (probability * (1 - probability) / 1e6) ** 0.5  # five standard deviations of the share
    assert abs(share_kept - (1 - probability)) <= deviation + 2**-16
    assert len(y.unique()) == (1 if probability == 0 else 2)
    assert y.max().item() == pytest.approx(1 / (1 - probability), rel=2e-2 if probability > 0.99 else 2e-4)


@pytest.mark.parametrize(("probability", "numbers"), [(0.5, 8), (0.3, 4)])
def test_the_numbers_of_a_word_are_independent(probability, numbers):
    share_kept = (dropout(torch.ones(numbers, 2**18), probability).view(-1, numbers) != 0).double()
    assert (share_kept.mean(0) - (1 - probability)).abs().max() < 5 * 0.5 / 2**9
    assert (torch.corrcoef(share_kept.t()) - torch.eye(numbers)).abs().max() < 5 / 2**9


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (0, 4), (2, 3, 5, 7)])
def test_any_shape_and_layout(shape):
    x = torch.rand(shape) + 1
    y = dropout(x, 0.5)
    assert y.shape == x.shape
    assert ((y == 0) | torch.isclose(y, 2 * x)).all()


def test_a_transposed_input_keeps_its_shape():
    assert dropout(torch.ones(3, 5).mT, 0.5).shape == (5, 3)


@pytest.mark.parametrize("probability", [1.0, -0.1, float("nan")])
def test_refuses_what_is_no_probability(probability):
    with pytest.raises(ValueError, match=r"probability: expected in \[0, 1\), got"):
        dropout(torch.ones(3), probability)


def test_follows_the_seed():
    x = torch.ones(100)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(first, second)


def test_backward_is_the_same_mask():
    x = torch.rand(50, 40).requires_grad_()
    y = dropout(x, 0.3)
    y.sum().backward()
    assert torch.equal(y.detach(), x.detach() * x.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    y = dropout(torch.ones(64, dtype=dtype), 0.5)
    assert y.dtype == dtype
    assert set(y.tolist()) == {0.0, 2.0}
