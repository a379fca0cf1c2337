"""The kernel of lock_gradient_ against its reference; one launch, which does not touch free elements."""

import pytest
import torch

import hat_kernels
from hat_kernels import Lock
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.locks import free_units, lock_for, rates
from tests.hat_kernels.shapes import PARAMETER_SHAPES, lay_out, normal
from tests.hat_kernels.tolerance import assert_as_accurate

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def equation(grad, rate):
    return grad * rate


def on_device(lock):
    return lock._replace(
        rows=None if lock.rows is None else lock.rows.to(DEVICE),
        columns=None if lock.columns is None else lock.columns.to(DEVICE),
    )


def locked(grad, lock):
    """The gradient after the kernel, on the CPU and in the same memory layout; the argument is not changed."""
    moved = torch.empty_strided(grad.shape, grad.stride(), dtype=grad.dtype, device=DEVICE).copy_(grad)
    with hat_kernels.backend("triton"):
        assert hat_kernels.lock_gradient_(moved, on_device(lock)) is moved
    return moved.cpu()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [*PARAMETER_SHAPES, (64, 300), (3, 16, 2, 2), (2, 5000), (40, 8)])
def test_is_rate_times_gradient(shape, dtype):
    grad = normal(shape, dtype)
    for kind in ("rows", "columns", "both"):
        for soft in (False, True):
            lock = lock_for(grad, kind, soft=soft)
            assert_as_accurate(locked(grad, lock), equation, grad, rates(grad, lock))


@pytest.mark.parametrize("layout", ["transposed", "strided"])
@pytest.mark.parametrize("shape", [(9,), (5, 17), (16, 40), (7, 3, 5), (6, 4, 3, 3), (2, 3, 1, 2, 5)])
def test_layouts(shape, layout):
    grad = lay_out(normal(shape), layout)
    for kind in ("rows", "columns", "both"):
        lock = lock_for(grad, kind)
        assert torch.equal(locked(grad, lock).double(), grad.double() * rates(grad, lock))


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (2, 3, 2, 2, 5)])
def test_channels_last(shape):
    form = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    grad = normal(shape).to(memory_format=form)
    lock = lock_for(grad, "both")
    assert torch.equal(locked(grad, lock).double(), grad.double() * rates(grad, lock))


def test_rows_with_gaps_between_them():
    wide = normal((6, 24)).to(DEVICE)
    before = wide.clone()
    lock = lock_for(before[:, :16], "both")
    with hat_kernels.backend("triton"):
        hat_kernels.lock_gradient_(wide[:, :16], on_device(lock))
    assert torch.equal(wide[:, 16:], before[:, 16:])
    assert torch.equal(wide[:, :16].cpu().double(), before[:, :16].cpu().double() * rates(before[:, :16], lock))


@pytest.mark.parametrize("last", [False, True])
def test_repeats_and_groups(last):
    form = torch.channels_last if last else torch.contiguous_format
    grad = normal((12, 6, 2, 2)).to(memory_format=form)
    for lock in (
        Lock(free_units(4), free_units(3, seed=1), row_repeat=3, column_repeat=2),
        Lock(free_units(12), free_units(12, seed=1), groups=2),
        Lock(free_units(6), free_units(9, seed=1), row_repeat=2, column_repeat=2, groups=3),
        Lock(free_units(4), row_repeat=3),
    ):
        expected = hat_kernels.lock_gradient_(grad.clone(), lock)
        assert torch.equal(locked(grad, lock), expected)


def test_flattened_channels_repeat():
    grad = normal((7, 5 * 9))
    lock = Lock(free_units(7), free_units(5, seed=1), column_repeat=9)
    assert torch.equal(locked(grad, lock), hat_kernels.lock_gradient_(grad.clone(), lock))


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_locked_element_becomes_zero_even_if_it_was_not_finite(dtype):
    for value in (torch.inf, -torch.inf, torch.nan):
        grad = torch.full((5, 7), value, dtype=dtype)
        lock = lock_for(grad, "both")
        rate = rates(grad, lock)
        actual = locked(grad, lock)
        assert torch.equal(actual[rate == 0], torch.zeros(int((rate == 0).sum()), dtype=dtype))
        assert not torch.isfinite(actual[rate > 0]).any()


def test_a_scalar():
    assert locked(torch.tensor(3.0), Lock(torch.zeros(1))) == 0
    assert locked(torch.tensor(3.0), Lock(torch.ones(1))) == 3


def test_one_launch_and_none_for_nothing():
    lock = on_device(Lock(torch.ones(3), torch.zeros(4)))
    with hat_kernels.backend("triton"), count_launches() as launches:
        hat_kernels.lock_gradient_(torch.ones(3, 4, device=DEVICE), lock)
    assert launches == {"lock_gradient_kernel": 1}
    with hat_kernels.backend("triton"), count_launches() as launches:
        hat_kernels.lock_gradient_(torch.ones(0, 4, device=DEVICE), on_device(Lock(torch.ones(0))))
    assert not launches


def test_the_same_bits_twice():
    grad = normal((33, 65), torch.bfloat16)
    lock = lock_for(grad, "both", soft=True)
    assert torch.equal(locked(grad, lock), locked(grad, lock))


def test_opcheck():
    lock = on_device(lock_for(torch.empty(4, 5), "both"))
    torch.library.opcheck(torch.ops.hat_kernels.lock_gradient_.default, (torch.randn(4, 5, device=DEVICE), *lock))


def test_compiles_as_one_graph():
    lock = on_device(lock_for(torch.empty(4, 5), "both"))

    def twice(grad):
        return hat_kernels.lock_gradient_(grad * 2, lock)

    grad = torch.randn(4, 5, device=DEVICE)
    with hat_kernels.backend("triton"):
        expected = twice(grad)
        assert torch.equal(torch.compile(twice, fullgraph=True, backend="aot_eager")(grad), expected)
