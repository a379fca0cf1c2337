"""Checks of single arguments: what passes, what is refused, and in which words."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hat.arguments import check_choice, check_number, check_path, check_switch, check_type, check_whole, got

STRANGE = [None, True, "1", 1.5, [1], {}, object(), np.ones(3), torch.ones(3), math.nan, 10**400, 1j, b"1", type]


@pytest.mark.parametrize("value", [*STRANGE, 0, -1])
def test_a_whole_number_is_an_int_from_the_least_on(value):
    if type(value) is int and value >= 1:
        check_whole("n", value, least=1)
    else:
        with pytest.raises(ValueError, match=r"^n: expected (an int|at least 1), got [^\n]{1,80}$"):
            check_whole("n", value, least=1)


@pytest.mark.parametrize("value", [*STRANGE, math.inf, -math.inf, 0.0, 2.0])
def test_a_number_is_finite_and_in_its_bounds(value):
    if type(value) in (int, float) and 0 < value < 2:
        check_number("lr", value, above=0, below=2)
    else:
        with pytest.raises(ValueError, match=r"^lr: expected a finite number > 0 and < 2, got [^\n]{1,80}$"):
            check_number("lr", value, above=0, below=2)


def test_infinity_passes_where_it_has_a_meaning_and_nan_never():
    check_number("clip", math.inf, above=0, finite=False)
    for value in (math.nan, -math.inf):
        with pytest.raises(ValueError, match=r"^clip: expected a number > 0, got"):
            check_number("clip", value, above=0, finite=False)


@pytest.mark.parametrize("value", STRANGE)
def test_a_choice_a_switch_and_a_class_refuse_everything_else(value):
    with pytest.raises(ValueError, match=r"^mode: expected one of \('a', 'b'\), got [^\n]{1,80}$"):
        check_choice("mode", value, ("a", "b"))
    if not isinstance(value, bool):
        with pytest.raises(ValueError, match=r"^verify: expected True or False, got [^\n]{1,80}$"):
            check_switch("verify", value)
    with pytest.raises(TypeError, match=r"^model: expected a module, got [^\n]{1,80}$"):
        check_type("model", value, torch.nn.Module, "a module")


def test_a_long_value_is_named_in_one_short_line():
    assert got("x" * 1000) == f"'{'x' * 56}..."
    assert got(10**5000) == "an int of 16610 bits"
    assert got(torch.zeros(2, 3)) == "a tensor of torch.float32, shape (2, 3)"
    assert got("two\nlines") == r"'two\nlines'"


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_a_number_is_one_that_a_float_can_hold(value):
    with pytest.raises(ValueError, match=r"^lr: expected a finite number, got an int of 1329 bits$"):
        check_number("lr", value)


@pytest.mark.parametrize("value", ["a", " ", "a\nb", Path("a"), Path()])
def test_paths(value):
    check_path("folder", value)


@pytest.mark.parametrize("value", ["", "a\0b", b"a", None, 3, True, [], ["a"]])
def test_what_is_no_path(value):
    with pytest.raises((TypeError, ValueError), match=r"^folder: expected a path[^\n]{0,80}$"):
        check_path("folder", value)
