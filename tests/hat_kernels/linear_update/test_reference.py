"""The step without a stored gradient against gradient and step; its errors."""

import pytest
import torch

import hat_kernels
from hat_kernels import Lock
from tests.hat_kernels.locks import KINDS, lock_for
from tests.hat_kernels.parameters import bits, locked
from tests.hat_kernels.shapes import normal

# (rows, units, inputs): 1, primes, empty in each dimension.
SIZES = [(1, 1, 1), (3, 5, 7), (17, 31, 13), (0, 3, 4), (4, 0, 3), (4, 3, 0)]


def inputs(rows, units, depth, dtype=torch.float32):
    return normal((units, depth), dtype), normal((rows, units), dtype, 1), normal((rows, depth), dtype, 2)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_is_the_step_of_the_gradient(sizes, kind, soft):
    weight, dz, x = inputs(*sizes, torch.float64)
    lock = lock_for(weight, kind, soft=soft)
    for options in ({}, {"weight_decay": 0.1}, {"maximize": True, "weight_decay": 0.1}, {"mend": True}):
        actual, expected = weight.clone(), weight.clone()
        assert hat_kernels.linear_update_(actual, dz, x, lock, lr=0.3, **options) is actual
        hat_kernels.sgd_update_([expected], [dz.t() @ x], [], [lock], lr=0.3, **options)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(bits(actual[locked(actual, lock)].float()), bits(weight[locked(actual, lock)].float()))


def test_lr_as_a_tensor_and_views_of_a_weight():
    weight, dz, x = inputs(6, 9, 8)
    expected = weight.clone()
    expected[4:, 2:] -= 0.5 * (dz.t() @ x)[4:, 2:]
    for lr in (0.5, torch.tensor(0.5)):
        actual = weight.clone()
        hat_kernels.linear_update_(actual[4:, 2:], dz[:, 4:], x[:, 2:], lr=lr)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_master_weight_moves_by_operands_of_a_lower_dtype(dtype):
    weight, dz, x = inputs(6, 9, 8)
    dz, x = dz.to(dtype), x.to(dtype)
    actual = hat_kernels.linear_update_(weight.clone(), dz, x, lr=0.5)
    torch.testing.assert_close(actual, weight - 0.5 * (dz.float().t() @ x.float()))


def test_what_is_not_finite_counts_as_0_and_the_rest_is_bounded():
    weight, dz, x = inputs(6, 9, 8)
    dz[:, 2], dz[:, 3] = torch.inf, 1e30
    lock = Lock(torch.ones(9))
    actual = hat_kernels.linear_update_(weight.clone(), dz, x, lock, lr=0.1, mend=True)
    assert torch.equal(actual[2], weight[2])
    assert (actual[3].abs() == torch.finfo(torch.float16).max).all()
    assert not hat_kernels.linear_update_(weight.clone(), dz, x, lock, lr=0.1).isfinite().all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": torch.zeros(3)}, ValueError, r"weight: expected shape \(N, K\), got \(3,\)"),
        ({"dz": torch.zeros(2, 4)}, ValueError, r"dz: expected shape \(M, 3\), got \(2, 4\)"),
        ({"x": torch.zeros(2, 3)}, ValueError, r"x: expected shape \(2, 4\), got \(2, 3\)"),
        ({"x": torch.zeros(5, 4)}, ValueError, r"x: expected shape \(2, 4\), got \(5, 4\)"),
        ({"x": torch.zeros(2, 4, device="meta")}, ValueError, "x: expected device cpu, got meta"),
        ({"x": torch.zeros(2, 4).half()}, TypeError, "x: expected torch.float32 as dz, got torch.float16"),
        ({"weight": torch.zeros(3, 4).half()}, TypeError, "weight: expected torch.float32 or .*, got torch.float16"),
        ({"weight": torch.zeros(3, 1).expand(3, 4)}, ValueError, "weight: expected elements with memory"),
        ({"lock": Lock(torch.ones(2))}, ValueError, "lock.rows: expected 3 units"),
        ({"lock": Lock(torch.ones(3), torch.ones(12), groups=3)}, ValueError, "lock: expected no groups, got 3"),
        ({"lr": torch.ones(2)}, ValueError, r"lr: expected one element, got shape \(2,\)"),
    ],
)
def test_errors(change, error, message):
    arguments = {"weight": torch.zeros(3, 4), "dz": torch.zeros(2, 3), "x": torch.zeros(2, 4), "lr": 0.1, **change}
    with pytest.raises(error, match=message):
        hat_kernels.linear_update_(**arguments)
