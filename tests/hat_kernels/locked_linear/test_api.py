"""The errors of locked_linear, and the cases in which it is plain `linear`."""

import pytest
import torch
import torch.nn.functional as F

import hat_kernels
from tests.hat_kernels.shapes import normal


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ((6, 0), "frozen: expected 0 to 5 rows, got 6"),
        ((-1, 0), "frozen: expected 0 to 5 rows, got -1"),
        ((0, 4), "frozen: expected 0 to 3 columns, got 4"),
        ((5, -2), "frozen: expected 0 to 3 columns, got -2"),
    ],
)
@pytest.mark.parametrize("learns", [True, False])
def test_frozen_out_of_range(frozen, message, learns):
    with pytest.raises(ValueError, match=message):
        hat_kernels.locked_linear(torch.zeros(2, 3), torch.zeros(5, 3, requires_grad=learns), frozen=frozen)


def test_gated_linear_passes_it_on():
    with pytest.raises(ValueError, match="frozen: expected 0 to 5 rows, got 6"):
        hat_kernels.gated_linear(torch.zeros(2, 3), torch.zeros(5, 3), frozen=(6, 0))


def test_without_a_gradient_it_is_linear():
    x, weight = normal((4, 3)), normal((5, 3), seed=1).requires_grad_()
    with torch.no_grad():
        y = hat_kernels.locked_linear(x, weight, frozen=(2, 2))
    assert not y.requires_grad
    assert torch.equal(y, F.linear(x, weight))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_autocast_casts_what_it_casts_for_linear(dtype, grad):
    """Autocast does not cast float64."""
    x, weight, bias = normal((4, 3), dtype), normal((5, 3), dtype, 1), normal((5,), dtype, 2)
    weight.requires_grad_(grad)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = hat_kernels.locked_linear(x, weight, bias, frozen=(2, 2)), F.linear(x, weight, bias)
    assert y.dtype == expected.dtype
    assert torch.equal(y, expected)


def test_a_bias_alone_is_locked_too():
    """The user has frozen the weight with `requires_grad_(False)`."""
    x, weight, bias = normal((4, 3)), normal((5, 3), seed=1), normal((5,), seed=2).requires_grad_()
    hat_kernels.locked_linear(x, weight, bias, frozen=(2, 3)).sum().backward()
    assert torch.equal(bias.grad, torch.tensor([0.0, 0, 4, 4, 4]))
