"""A locked update is rate times the update; rate 0 keeps the old bits, rate 1 the new bits."""

import pytest
import torch

import hat_kernels
from tests.hat_kernels.locks import lock_for, rates
from tests.hat_kernels.shapes import DTYPES, LAYOUTS, PARAMETER_SHAPES, lay_out, normal
from tests.hat_kernels.tolerance import assert_as_accurate


def equation(after, before, rate):
    return before + rate * (after - before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["rows", "columns", "both"])
@pytest.mark.parametrize("shape", PARAMETER_SHAPES)
def test_is_rate_times_update(shape, kind, dtype):
    before, after = normal(shape, dtype), normal(shape, dtype, 1)
    lock = lock_for(before, kind, soft=True)
    rate = rates(before, lock)
    parameter = after.clone()
    assert hat_kernels.lock_update_(parameter, before, lock) is parameter
    assert_as_accurate(parameter, equation, after, before, rate)
    assert torch.equal(parameter[rate == 0], before[rate == 0])
    assert torch.equal(parameter[rate == 1], after[rate == 1])


@pytest.mark.parametrize("before_layout", LAYOUTS)
@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_layouts(layout, before_layout):
    before, parameter = lay_out(normal((13, 31)), before_layout), lay_out(normal((13, 31), seed=1), layout)
    lock = lock_for(before, "both")
    expected = torch.where(rates(before, lock) == 0, before, parameter)
    assert torch.equal(hat_kernels.lock_update_(parameter, before, lock), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_locked_bits_survive_anything(dtype):
    """The formula before + 0 * (after - before) would give NaN for an infinite update."""
    before = normal((5, 7), dtype)
    lock = lock_for(before, "both")
    locked = rates(before, lock) == 0
    for value in (torch.inf, -torch.inf, torch.nan, torch.finfo(dtype).max):
        parameter = torch.full((5, 7), value, dtype=dtype)
        hat_kernels.lock_update_(parameter, before, lock)
        assert torch.equal(parameter[locked], before[locked])
        assert torch.equal(parameter[~locked].isnan(), torch.full((5, 7), value, dtype=dtype)[~locked].isnan())


def test_a_negative_zero_keeps_its_sign():
    before = -torch.zeros(3, 3)
    lock = lock_for(before, "rows")
    parameter = hat_kernels.lock_update_(torch.ones(3, 3), before, lock)
    locked = rates(before, lock) == 0
    assert parameter[locked].signbit().all()


def test_before_is_not_changed():
    before = normal((5, 7))
    copy = before.clone()
    hat_kernels.lock_update_(normal((5, 7), seed=1), before, lock_for(before, "both", soft=True))
    assert torch.equal(before, copy)
