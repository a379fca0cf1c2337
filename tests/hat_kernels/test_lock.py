"""The rate of a weight against an explicit double loop over (i, j)."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hat_kernels import Lock
from hat_kernels.lock import check_lock, check_locks, rate
from tests.hat_kernels.shapes import generator


def free(units, seed=0):
    """Units that are free, used, and between the two."""
    values = torch.rand(units, generator=generator(seed))
    return torch.where(values < 0.3, 0.0, torch.where(values > 0.6, 1.0, values))


def loop(shape, rows, columns, row_repeat=1, column_repeat=1, groups=1):
    """1 - min(used of the output unit, used of the input unit), one weight at a time."""
    expected = torch.empty(shape, dtype=torch.float64)
    for index in itertools.product(*map(range, shape)):
        i = index[0]
        used_out = 1 if rows is None else 1 - rows[i // row_repeat].double()
        if columns is None:
            used_in = 1
        else:
            first_input = (i // (shape[0] // groups)) * shape[1]  # the first channel of the group
            used_in = 1 - columns[(first_input + index[1]) // column_repeat].double()
        expected[index] = 1 - min(used_out, used_in)
    return expected


def check(shape, rows, columns, **options):
    lock = Lock(rows, columns, **options)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        parameter = torch.empty(shape, dtype=dtype)
        check_lock(lock, parameter)
        actual = rate(lock, parameter)
        assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        expected = loop(shape, rows, columns, **options)
        # 1 - (1 - f) in float64 of a float32 f: one rounding each way.
        assert torch.allclose(actual.expand(shape).double(), expected, rtol=0, atol=2 * torch.finfo(torch.float64).eps)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (17, 3), (3, 0), (0, 3)])
def test_linear(shape):
    check(shape, free(shape[0]), free(shape[1], 1))
    check(shape, free(shape[0]), None)
    check(shape, None, free(shape[1], 1))


@pytest.mark.parametrize("units", [0, 1, 7])
def test_bias(units):
    check((units,), free(units), None)


@pytest.mark.parametrize("shape", [(5, 3, 2), (5, 3, 2, 3), (4, 3, 1, 2, 3)])
def test_convolutions(shape):
    check(shape, free(shape[0]), free(shape[1], 1))
    check(shape, free(shape[0]), None)
    check(shape, None, free(shape[1], 1))


@pytest.mark.parametrize(("out", "inputs", "groups"), [(6, 4, 2), (9, 6, 3), (4, 4, 4), (8, 4, 4), (5, 5, 5)])
@pytest.mark.parametrize("spatial", [(3,), (1, 2), (2, 1, 1)])
def test_grouped_and_depthwise(out, inputs, groups, spatial):
    check((out, inputs // groups, *spatial), free(out), free(inputs, 1), groups=groups)


@pytest.mark.parametrize("repeat", [1, 2, 9])
def test_flatten_repeats_channels(repeat):
    check((5, 3 * repeat), free(5), free(3, 1), column_repeat=repeat)


@pytest.mark.parametrize("repeat", [2, 3])
def test_rows_repeat(repeat):
    check((4 * repeat, 5), free(4), free(5, 1), row_repeat=repeat)
    check((4 * repeat,), free(4), None, row_repeat=repeat)


@given(st.data())
def test_any_lock(data):
    groups = data.draw(st.integers(1, 3))
    row_repeat, column_repeat = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    row_units = data.draw(st.integers(1, 4)) * groups
    column_units = data.draw(st.integers(1, 4)) * groups
    spatial = data.draw(st.lists(st.integers(1, 2), max_size=3))
    shape = (row_units * row_repeat, column_units * column_repeat // groups, *spatial)
    has_columns = data.draw(st.booleans())
    columns = free(column_units, 1) if has_columns else None
    check(shape, free(row_units), columns, row_repeat=row_repeat, column_repeat=column_repeat, groups=groups)


def test_binary_rates_are_exact():
    rows, columns = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])
    assert torch.equal(rate(Lock(rows, columns), torch.empty(2, 2)), torch.tensor([[0.0, 1.0], [1.0, 1.0]]))


@pytest.mark.parametrize(
    ("lock", "shape", "message"),
    [
        (Lock(), (3, 2), "lock: expected rows, columns or both, got neither"),
        (Lock(torch.ones(2)), (3, 2), r"lock.rows: expected 3 units along dimension 0, got \(2,\) repeated 1 times"),
        (Lock(torch.ones(3, 1)), (3, 2), "lock.rows: expected 3 units along dimension 0"),
        (Lock(torch.ones(2), row_repeat=2), (3, 2), r"lock.rows: expected 3 .* got \(2,\) repeated 2 times"),
        (Lock(columns=torch.ones(3)), (3, 2), r"lock.columns: expected 2 units along dimension 1, got \(3,\)"),
        (Lock(columns=torch.ones(3)), (3,), "lock.columns: expected a parameter with more than 1 dimensions, got 1"),
        (Lock(torch.ones(2)), (), r"lock.rows: expected .*got"),
        (Lock(torch.ones(4), torch.ones(2), groups=2), (4, 2), "lock.columns: expected 4 units along dimension 1"),
        (Lock(torch.ones(3), torch.ones(4), groups=2), (3, 2), "lock: expected rows that 2 groups divide"),
        (Lock(None, torch.ones(4), groups=2), (4, 2), "lock: expected rows that 2 groups divide"),
    ],
)
def test_locks_that_do_not_fit(lock, shape, message):
    with pytest.raises(ValueError, match=message):
        check_lock(lock, torch.empty(shape))


def test_list_of_locks():
    with pytest.raises(ValueError, match="locks: expected 2, one a parameter, got 1"):
        check_locks([None], [torch.empty(1), torch.empty(2)])
    with pytest.raises(ValueError, match=r"locks\[1\].rows: expected 2 units"):
        check_locks([None, Lock(torch.ones(1))], [torch.empty(1), torch.empty(2)])


@pytest.mark.parametrize(("free", "error", "message"), [
    (torch.ones(3, dtype=torch.float64), TypeError, "lock.rows: expected torch.float32, got torch.float64"),
    (torch.ones(3, device="meta"), ValueError, "lock.rows: expected a tensor on cpu, got meta"),
])  # fmt: skip
def test_a_lock_that_a_kernel_would_misread(free, error, message):
    with pytest.raises(error, match=message):
        check_lock(Lock(free), torch.zeros(3, 2))
