"""Which differences count as rounding."""

from __future__ import annotations

import math

import pytest
import torch

from hat.network.tolerance import LAYERS, SUMS, difference, largest_change


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("roundings", [SUMS, LAYERS])
def test_rounding_of_the_largest_value_is_no_difference(dtype, roundings):
    expected = torch.tensor([1.0, -8.0, 0.0], dtype=dtype)
    within = 8 * roundings * torch.finfo(dtype).eps
    assert difference(expected + torch.tensor([0, 0, within / 2], dtype=dtype), expected, roundings) == 0.0
    got = difference(expected + torch.tensor([0, 0, 2 * within], dtype=dtype), expected, roundings)
    assert got == pytest.approx(2 * within, rel=0.01)


def test_low_precision_has_an_upper_bound():
    """So many roundings of bfloat16 would be more than the value itself."""
    expected = torch.ones(3, dtype=torch.bfloat16)
    assert difference(expected * 1.0625, expected, LAYERS) == 0.0
    assert difference(expected * 1.5, expected, LAYERS) == 0.5
    assert difference(expected * 1.1875, expected, LAYERS) == 0.0  # large drawn weights, through many layers
    assert difference(expected * 1.1875, expected, SUMS) == 0.1875


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (torch.ones(2), torch.ones(3)),
        (torch.ones(2, dtype=torch.int64), torch.ones(2)),
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0])),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, math.inf])),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.nan])),
    ],
)
def test_what_cannot_be_measured_differs(got, expected):
    assert difference(got, expected, LAYERS) == math.inf


def test_equal_nan_and_equal_infinities():
    values = torch.tensor([1.0, math.nan, -math.inf])
    assert difference(values, values.clone(), SUMS, equal_nan=True) == 0.0
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 2]), SUMS) == 0.0
    assert difference(torch.zeros(0), torch.zeros(0), SUMS) == 0.0


def test_largest_change_is_of_bits():
    then = torch.tensor([1.0, 2.0])
    assert largest_change(then.clone(), then) == 0.0
    assert largest_change(torch.nextafter(then, then + 1), then) > 0
    assert largest_change(torch.tensor([math.nan, 2.0]), then) == math.inf
