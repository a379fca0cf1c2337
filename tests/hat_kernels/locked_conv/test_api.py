"""The errors of locked_conv, and the cases in which it is a plain convolution."""

import pytest
import torch
import torch.nn.functional as F

import hat_kernels
from tests.hat_kernels.shapes import normal

PLAIN = {"stride": [1], "padding": [0], "dilation": [1]}


@pytest.mark.parametrize(
    ("frozen", "groups", "message"),
    [
        ((7, 0), 1, "frozen: expected 0 to 6 rows, got 7"),
        ((-1, 0), 1, "frozen: expected 0 to 6 rows, got -1"),
        ((0, 5), 1, "frozen: expected 0 to 4 columns, got 5"),
        ((0, -1), 1, "frozen: expected 0 to 4 columns, got -1"),
        ((3, 3), 2, "frozen: expected 0 to 2 columns, got 3"),
        ((3, 1), 2, "frozen: expected 0 or 2 columns with groups, got 1"),
    ],
)
def test_frozen_out_of_range(frozen, groups, message):
    x, weight = torch.zeros(2, 4, 5), torch.zeros(6, 4 // groups, 3, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        hat_kernels.locked_conv(x, weight, **PLAIN, groups=groups, frozen=frozen)


def test_without_a_gradient_it_is_a_convolution():
    x, weight = normal((2, 4, 5)), normal((6, 4, 3), seed=1).requires_grad_()
    with torch.no_grad():
        y = hat_kernels.locked_conv(x, weight, **PLAIN, frozen=(2, 2))
    assert not y.requires_grad
    assert torch.equal(y, F.conv1d(x, weight))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("inputs", [torch.float32, torch.bfloat16])
def test_autocast_casts_what_it_casts_for_a_convolution(inputs, grad):
    """With and without a gradient: in validation under autocast, the layer before gives bfloat16."""
    x, weight, bias = normal((2, 4, 5), inputs), normal((6, 4, 3), seed=1).requires_grad_(), normal((6,), seed=2)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(grad):
        expected = F.conv1d(x, weight, bias)
        y = hat_kernels.locked_conv(x, weight, bias, **PLAIN, frozen=(2, 2))
    assert y.dtype == expected.dtype
    assert torch.equal(y, expected)


def test_autocast_leaves_float64_alone():
    x, weight = normal((2, 4, 5), torch.float64), normal((6, 4, 3), torch.float64, 1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.conv1d(x, weight)
        y = hat_kernels.locked_conv(x, weight, **PLAIN, frozen=(2, 2))
    assert y.dtype == expected.dtype
