"""The kernel of lock_update_ against its reference; locked and free elements keep their bits."""

import pytest
import torch

import hat_kernels
from hat_kernels import Lock
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.locks import free_units, lock_for, rates
from tests.hat_kernels.poison import poisoned
from tests.hat_kernels.shapes import LAYOUTS, PARAMETER_SHAPES, lay_out, normal
from tests.hat_kernels.tolerance import assert_as_accurate

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def equation(after, before, rate):
    return before + rate * (after - before)


def on_device(lock):
    return lock._replace(
        rows=None if lock.rows is None else lock.rows.to(DEVICE),
        columns=None if lock.columns is None else lock.columns.to(DEVICE),
    )


def moved(tensor):
    """A tensor on the device, in the same memory layout."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE).copy_(tensor)


def locked(after, before, lock):
    parameter = moved(after)
    previous = before.to(DEVICE)
    with hat_kernels.backend("triton"), poisoned():
        assert hat_kernels.lock_update_(parameter, previous, on_device(lock)) is parameter
    assert torch.equal(previous.cpu(), before)
    return parameter.cpu()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [*PARAMETER_SHAPES, (64, 300), (3, 16, 2, 2), (2, 5000), (40, 8)])
def test_is_rate_times_update(shape, dtype):
    before, after = normal(shape, dtype), normal(shape, dtype, 1)
    for kind in ("rows", "columns", "both"):
        for soft in (False, True):
            lock = lock_for(before, kind, soft=soft)
            rate = rates(before, lock)
            actual = locked(after, before, lock)
            assert_as_accurate(actual, equation, after, before, rate)
            assert torch.equal(actual[rate == 0], before[rate == 0])
            assert torch.equal(actual[rate == 1], after[rate == 1])


@pytest.mark.parametrize("before_layout", LAYOUTS)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
@pytest.mark.parametrize("shape", [(9,), (13, 31), (6, 4, 3, 3)])
def test_layouts(shape, layout, before_layout):
    before, after = lay_out(normal(shape), before_layout), lay_out(normal(shape, seed=1), layout)
    for kind in ("rows", "columns", "both"):
        lock = lock_for(before, kind)
        assert torch.equal(locked(after, before, lock), torch.where(rates(before, lock) == 0, before, after))


@pytest.mark.parametrize("last", [False, True])
def test_repeats_and_groups(last):
    form = torch.channels_last if last else torch.contiguous_format
    before, after = normal((12, 6, 2, 2)), normal((12, 6, 2, 2), seed=1).to(memory_format=form)
    for lock in (
        Lock(free_units(4), free_units(3, seed=1), row_repeat=3, column_repeat=2),
        Lock(free_units(12), free_units(12, seed=1), groups=2),
        Lock(free_units(6), free_units(9, seed=1), row_repeat=2, column_repeat=2, groups=3),
    ):
        expected = hat_kernels.lock_update_(after.clone(), before, lock)
        assert torch.equal(locked(after, before, lock), expected)


@pytest.mark.parametrize("rows", [16, 6])
def test_rows_with_gaps_between_them(rows):
    """The copy of `before` has no gaps between the rows, so its stride differs from that of the parameter."""
    before = normal((rows, 16))
    wide = normal((rows, 24), seed=1).to(DEVICE)
    after = wide.clone()
    lock = lock_for(before, "both")
    with hat_kernels.backend("triton"), poisoned():
        hat_kernels.lock_update_(wide[:, :16], before.to(DEVICE), on_device(lock))
    assert torch.equal(wide[:, 16:], after[:, 16:])
    assert torch.equal(wide[:, :16].cpu(), torch.where(rates(before, lock) == 0, before, after[:, :16].cpu()))


@pytest.mark.parametrize("dtype", FLOATS)
def test_locked_bits_survive_anything(dtype):
    before = normal((5, 7), dtype)
    lock = lock_for(before, "both")
    is_locked = rates(before, lock) == 0
    for value in (torch.inf, -torch.inf, torch.nan, torch.finfo(dtype).max):
        after = torch.full((5, 7), value, dtype=dtype)
        actual = locked(after, before, lock)
        assert torch.equal(actual[is_locked], before[is_locked])
        assert torch.equal(actual[~is_locked].isnan(), after[~is_locked].isnan())


def test_a_negative_zero_keeps_its_sign():
    before = -torch.zeros(3, 3)
    lock = Lock(torch.tensor([0.0, 1.0, 0.0]))
    assert locked(torch.ones(3, 3), before, lock)[::2].signbit().all()


def test_a_scalar():
    assert locked(torch.tensor(3.0), torch.tensor(2.0), Lock(torch.zeros(1))) == 2
    assert locked(torch.tensor(3.0), torch.tensor(2.0), Lock(torch.ones(1))) == 3


def test_one_launch_and_none_for_nothing():
    lock = on_device(Lock(torch.ones(3), torch.zeros(4)))
    ones = torch.ones(3, 4, device=DEVICE)
    with hat_kernels.backend("triton"), count_launches() as launches:
        hat_kernels.lock_update_(ones.clone(), ones, lock)
    assert launches == {"lock_update_kernel": 1}
    empty = torch.ones(0, 4, device=DEVICE)
    with hat_kernels.backend("triton"), count_launches() as launches:
        hat_kernels.lock_update_(empty.clone(), empty, on_device(Lock(torch.ones(0))))
    assert not launches


def test_the_same_bits_twice():
    before, after = normal((33, 65), torch.bfloat16), normal((33, 65), torch.bfloat16, 1)
    lock = lock_for(before, "both", soft=True)
    assert torch.equal(locked(after, before, lock), locked(after, before, lock))


def test_opcheck():
    lock = on_device(lock_for(torch.empty(4, 5), "both"))
    tensors = torch.randn(4, 5, device=DEVICE), torch.randn(4, 5, device=DEVICE)
    torch.library.opcheck(torch.ops.hat_kernels.lock_update_.default, (*tensors, *lock))


def test_compiles_as_one_graph():
    lock = on_device(lock_for(torch.empty(4, 5), "both"))

    def doubled(before):
        return hat_kernels.lock_update_(before * 2, before, lock)

    before = torch.randn(4, 5, device=DEVICE)
    with hat_kernels.backend("triton"):
        expected = doubled(before)
        assert torch.equal(torch.compile(doubled, fullgraph=True, backend="aot_eager")(before), expected)
