"""A locked gradient is rate times the gradient, and exactly 0 for rate 0."""

import pytest
import torch

import hat_kernels
from hat_kernels import Lock
from tests.hat_kernels.locks import lock_for, rates
from tests.hat_kernels.shapes import DTYPES, PARAMETER_SHAPES, lay_out, normal
from tests.hat_kernels.tolerance import assert_as_accurate


def equation(grad, rate):
    return grad * rate


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["rows", "columns", "both"])
@pytest.mark.parametrize("shape", PARAMETER_SHAPES)
def test_is_rate_times_gradient(shape, kind, dtype):
    grad = normal(shape, dtype)
    lock = lock_for(grad, kind, soft=True)
    before = grad.clone()
    actual = hat_kernels.lock_gradient_(grad, lock)
    assert actual is grad
    assert_as_accurate(actual, equation, before, rates(before, lock))


@pytest.mark.parametrize("layout", ["transposed", "strided"])
@pytest.mark.parametrize("shape", [(5, 17), (7, 3, 5), (6, 4, 3, 3)])
def test_layouts(shape, layout):
    grad = lay_out(normal(shape), layout)
    storage = grad.untyped_storage().data_ptr()
    lock = lock_for(grad, "both")
    expected = grad.double() * rates(grad, lock)
    hat_kernels.lock_gradient_(grad, lock)
    assert grad.untyped_storage().data_ptr() == storage
    assert torch.equal(grad.double(), expected)


def test_channels_last():
    grad = normal((6, 4, 3, 3)).to(memory_format=torch.channels_last)
    lock = lock_for(grad, "both")
    expected = grad.double() * rates(grad, lock)
    assert torch.equal(hat_kernels.lock_gradient_(grad, lock).double(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_locked_element_becomes_zero_even_if_it_was_not_finite(value, dtype):
    grad = torch.full((5, 7), value, dtype=dtype)
    lock = lock_for(grad, "both")
    rate = rates(grad, lock)
    hat_kernels.lock_gradient_(grad, lock)
    assert torch.equal(grad[rate == 0], torch.zeros(int((rate == 0).sum()), dtype=dtype))
    assert not torch.isfinite(grad[rate > 0]).any()


def test_neighbours_of_a_strided_gradient_are_left_alone():
    wide = torch.ones(3, 9)
    hat_kernels.lock_gradient_(wide[:, 1::2], Lock(torch.zeros(3)))
    assert torch.equal(wide.sum(0), torch.tensor([3.0, 0, 3, 0, 3, 0, 3, 0, 3]))
