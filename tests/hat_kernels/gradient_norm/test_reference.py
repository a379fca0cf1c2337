"""The norm of locked gradients against float64."""

import pytest
import torch

import hat_kernels
from tests.hat_kernels.locks import KINDS, lock_for, rates
from tests.hat_kernels.shapes import DTYPES, LAYOUTS, PARAMETER_SHAPES, lay_out, normal
from tests.hat_kernels.tolerance import FACTOR


def norm64(grads, locks):
    return sum((g.double() * rates(g, lock)).square().sum() for g, lock in zip(grads, locks, strict=True)).sqrt()


def assert_norm(grads, locks):
    """Check a norm. A float32 sum of n squares has an error of n eps / 2 at worst, and of sqrt(n) eps typically."""
    actual = hat_kernels.gradient_norm(grads, locks)
    assert actual.dim() == 0
    wide = any(g.dtype == torch.float64 for g in grads)
    assert actual.dtype == (torch.float64 if wide else torch.float32)
    exact = norm64(grads, locks)
    count = sum(g.numel() for g in grads)
    eps = torch.finfo(torch.float32 if any(g.dtype != torch.float64 for g in grads) else torch.float64).eps
    assert abs(actual.item() - exact.item()) <= FACTOR * eps * (count**0.5 + 2) * exact.item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_norm(kind, dtype):
    grads = [normal(shape, dtype, index) for index, shape in enumerate(PARAMETER_SHAPES)]
    locks = [lock_for(g, kind, soft=dtype in (torch.float32, torch.float64), seed=i) for i, g in enumerate(grads)]
    copies = [g.clone() for g in grads]
    assert_norm(grads, locks)
    assert all(torch.equal(g, copy) for g, copy in zip(grads, copies, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    grads = [lay_out(normal((13, 31)), layout), lay_out(normal((7,)), layout)]
    assert_norm(grads, [lock_for(g, "both") for g in grads])


def test_mixed_dtypes():
    grads = [normal((13, 31), dtype, 3) for dtype in DTYPES[:3]]
    assert_norm(grads, [lock_for(g, "both") for g in grads])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_gradients_do_not_overflow(dtype):
    grads = [torch.full((64, 64), 1000.0, dtype=dtype)]
    assert hat_kernels.gradient_norm(grads, [None]).item() == 64000.0


def test_locked_infinities_do_not_count():
    grad = normal((7, 9))
    lock = lock_for(grad, "both")
    clean = hat_kernels.gradient_norm([grad], [lock])
    grad[rates(grad, lock) == 0] = torch.inf
    assert torch.equal(hat_kernels.gradient_norm([grad], [lock]), clean)
    grad[rates(grad, lock) == 0] = torch.nan
    assert torch.equal(hat_kernels.gradient_norm([grad], [lock]), clean)


def test_everything_locked():
    grad = normal((7,))
    lock = lock_for(grad, "rows")._replace(rows=torch.zeros(7))
    assert hat_kernels.gradient_norm([grad], [lock]).item() == 0
