"""The step in the epilogue of the matmul against the reference: dtypes, layouts, locks, scalars, one launch."""

from unittest import mock

import pytest
import torch

import hat_kernels
from hat_kernels import Lock
from hat_kernels.gated_linear import blocks
from hat_kernels.limits import LARGEST
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.gated_linear.kernel import chosen
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.locks import KINDS, lock_for
from tests.hat_kernels.parameters import bits, locked, moved
from tests.hat_kernels.shapes import LAYOUTS, lay_out, normal
from tests.hat_kernels.tolerance import error

pytest.importorskip("triton")

SIZES = [(1, 1, 1), (3, 5, 7), (67, 71, 130), (0, 3, 4), (4, 0, 3), (4, 3, 0)]
DTYPES = [(torch.float32, torch.float32), (torch.float16, torch.float16), (torch.float32, torch.float16)]
if DEVICE != "cpu":  # the interpreter computes bfloat16 dots wrongly
    DTYPES += [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)]


def inputs(rows, units, depth, weight=torch.float32, operands=torch.float32):
    shapes = [((units, depth), weight), ((rows, units), operands), ((rows, depth), operands)]
    return [normal(shape, dtype, seed).to(DEVICE) for seed, (shape, dtype) in enumerate(shapes)]


def lock_of(weight, kind, **options):
    lock = lock_for(weight, kind, **options)
    return None if lock is None else moved(lock)


def check(weight, dz, x, lock, **options):
    """Check that the kernel is as near to float64 as the reference, and that locked weights keep their bits."""
    options = {"lr": 0.3, **options}

    def step(weight, dz, x):
        return hat_kernels.linear_update_(weight.clone(), dz, x, lock, **options)

    with hat_kernels.backend("triton"), count_launches() as launches:
        actual = weight.as_strided(weight.shape, weight.stride()).clone(memory_format=torch.preserve_format)
        hat_kernels.linear_update_(actual, dz, x, lock, **options)
    assert launches == ({"gated_linear_gradient": 1} if weight.numel() else {})
    with hat_kernels.backend("reference"):
        precise, allowed = error(step, weight.dtype, weight, dz, x)
    if not actual.numel():
        return actual
    allowed += len(dz) ** 0.5 * torch.finfo(torch.float32).eps * precise.abs().max().item()  # another order of sums
    assert (actual.double() - precise).abs().max().item() <= allowed
    is_locked = locked(weight, lock)
    assert torch.equal(bits(actual[is_locked]), bits(weight[is_locked]))
    return actual


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_sizes_and_locks(sizes, kind, soft):
    weight, dz, x = inputs(*sizes)
    check(weight, dz, x, lock_of(weight, kind, soft=soft), weight_decay=0.1)


@pytest.mark.parametrize("options", [{}, {"maximize": True, "weight_decay": 0.1}, {"mend": True}])
@pytest.mark.parametrize("dtypes", DTYPES)
def test_dtypes(dtypes, options):
    weight, dz, x = inputs(9, 70, 40, *dtypes)
    check(weight, dz, x, lock_of(weight, "both", soft=True), **options)
    check(weight, dz, x, None, **options)


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_layouts(layout):
    weight, dz, x = inputs(9, 70, 40)
    check(lay_out(weight, layout), lay_out(dz, layout), lay_out(x, layout), lock_of(weight, "both"))


def test_a_stride_0_gradient():
    weight, dz, x = inputs(9, 70, 40)
    check(weight, dz[:1, :1].expand(9, 70), x, None)


@pytest.mark.parametrize("name", ["narrow", "square", "wide"])
def test_every_block(name):
    block = blocks.BLOCKS["update"][name]
    weight, dz, x = inputs(70, block.m + 3, block.n + 5, torch.float32, torch.float16)
    with chosen(name):
        check(weight, dz, x, lock_of(weight, "both", soft=True), mend=True)


def test_repeats():
    weight, dz, x = inputs(9, 12, 30)
    lock = Lock(lock_of(weight[:4], "rows").rows, lock_of(weight[:6], "rows").rows, row_repeat=3, column_repeat=5)
    check(weight, dz, x, lock)


def test_lr_of_the_device():
    weight, dz, x = inputs(9, 12, 30)
    with hat_kernels.backend("triton"):
        a, b = (
            hat_kernels.linear_update_(weight.clone(), dz, x, lr=lr) for lr in (0.3, torch.tensor(0.3, device=DEVICE))
        )
    assert torch.equal(a, b)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("dtypes", DTYPES)
def test_a_locked_weight_keeps_its_bits_whatever_comes_in(dtypes, value):
    """Whole tiles are locked, and rows of other tiles."""
    weight, dz, x = inputs(9, 140, 40, *dtypes)
    weight[:, 0], weight[1] = -0.0, torch.nan
    rows = (torch.arange(140, device=DEVICE) >= 100).float()
    lock = Lock(rows, torch.zeros(40, device=DEVICE))
    x[0], dz[1] = value, value
    with hat_kernels.backend("triton"):
        actual = hat_kernels.linear_update_(weight.clone(), dz, x, lock, lr=0.3, weight_decay=0.1)
    assert torch.equal(bits(actual[:100]), bits(weight[:100]))
    assert not actual[100:].isfinite().any()


def test_a_locked_tile_reads_no_operand():
    """With all units locked, the kernel reads only the lock, not the weight."""
    weight, dz, x = inputs(9, 70, 40)
    lock = Lock(torch.zeros(70, device=DEVICE), torch.zeros(40, device=DEVICE))
    before = weight.clone()
    with hat_kernels.backend("triton"):
        hat_kernels.linear_update_(weight, dz * torch.nan, x, lock, lr=0.3)
    assert torch.equal(bits(weight), bits(before))


def test_mended():
    weight, dz, x = inputs(9, 70, 40)
    dz[:, 2], dz[:, 3] = torch.inf, 1e30
    lock = Lock(torch.ones(70, device=DEVICE))
    with hat_kernels.backend("triton"):
        actual = hat_kernels.linear_update_(weight.clone(), dz, x, lock, lr=0.1, mend=True)
        free = hat_kernels.linear_update_(weight.clone(), dz, x, None, lr=0.1, mend=True)
    assert torch.equal(actual[2], weight[2])
    assert (actual[3].abs() == LARGEST).all()
    assert (free[3].abs() > LARGEST).all()  # without a lock no finished task reads the weight, so its overflow may show


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lr", [0.3, torch.tensor(0.3)])
def test_the_vendor_makes_a_gradient(kind, lr):
    """`auto` on a GPU without measured choices gives the same weights."""
    weight, dz, x = inputs(9, 70, 40)
    lock = lock_of(weight, kind, soft=True)
    lr = lr.to(DEVICE) if isinstance(lr, torch.Tensor) else lr
    with hat_kernels.backend("triton"), count_launches() as launches:
        expected = hat_kernels.linear_update_(weight.clone(), dz, x, lock, lr=lr, weight_decay=0.1)
        launches.clear()
        with mock.patch("hat_kernels.linear_update.triton.forced", return_value=False):
            actual = hat_kernels.linear_update_(weight.clone(), dz, x, lock, lr=lr, weight_decay=0.1)
    torch.testing.assert_close(actual, expected)
    plain = kind == "none" and not isinstance(lr, torch.Tensor)
    assert launches == ({} if plain else {"sgd_kernel": 1})


def test_the_version_counts_on():
    weight, dz, x = inputs(3, 5, 7)
    version = weight._version
    with hat_kernels.backend("triton"):
        hat_kernels.linear_update_(weight, dz, x, lr=0.1)
    assert weight._version > version


def test_opcheck_and_compile():
    weight, dz, x = inputs(3, 5, 7)
    lock = lock_of(weight, "both", seed=3)

    def step(weight, dz, x):
        hat_kernels.linear_update_(weight, 2 * dz, x, lock, lr=0.1)
        return weight

    with hat_kernels.backend("triton"):
        expected = step(weight.clone(), dz, x)
        torch._dynamo.reset()
        actual = torch.compile(step, fullgraph=True, backend="aot_eager")(weight.clone(), dz, x)
    torch.testing.assert_close(actual, expected)
    torch.library.opcheck(
        torch.ops.hat_kernels.linear_update_,
        [weight, dz, x, None, *lock[:4], 0.1, 0.0, False, True],
        test_utils=("test_schema", "test_faketensor"),
    )
