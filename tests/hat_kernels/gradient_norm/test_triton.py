"""The kernels against the reference: two launches, no dependence on the order of programs."""

from __future__ import annotations

import pytest
import torch

import hat_kernels
from hat_kernels import Lock
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.parameters import LISTS, free, grads_for, locked, mixed_dtypes, on_device
from tests.hat_kernels.poison import poisoned


def both(function, *args, **options):
    with hat_kernels.backend("reference"):
        expected = function(*args, **options)
    with hat_kernels.backend("triton"):
        actual = function(*args, **options)
    assert actual.shape == ()
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0, equal_nan=True)
    return actual


@pytest.mark.parametrize("name", LISTS)
def test_norm(name):
    parameters, locks = LISTS[name]()
    both(hat_kernels.gradient_norm, grads_for(parameters), locks)


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e9])
@pytest.mark.parametrize("scale", [None, 0.125])
def test_factor(scale, max_norm):
    parameters, locks = mixed_dtypes()
    scale = None if scale is None else torch.tensor([scale], device=DEVICE).sum()
    both(hat_kernels.clip_factor, grads_for(parameters), locks, max_norm, grad_scale=scale)


def test_factor_is_that_of_torch():
    grads = grads_for([on_device((5, 7)), on_device((7,))])
    leaves = [torch.zeros_like(g).requires_grad_() for g in grads]
    for leaf, grad in zip(leaves, grads, strict=True):
        leaf.grad = grad.clone()
    torch.nn.utils.clip_grad_norm_(leaves, 0.5)
    factor = both(hat_kernels.clip_factor, grads, [None, None], 0.5)
    torch.testing.assert_close(grads[0] * factor, leaves[0].grad, rtol=1e-6, atol=0)


def test_mending_and_locked_infinities():
    grad, lock = on_device((9, 136)), Lock(free(9), free(136))
    clean = both(hat_kernels.gradient_norm, [grad], [lock])
    is_locked = locked(grad, lock)
    grad[is_locked] = torch.inf
    assert torch.equal(both(hat_kernels.gradient_norm, [grad], [lock]), clean)
    broken = torch.where(is_locked, torch.nan, grad)
    broken[0, 0] = torch.inf
    both(hat_kernels.gradient_norm, [broken], [None], mend=True)
    both(hat_kernels.clip_factor, [broken], [None], 1.0, mend=True)
    with hat_kernels.backend("triton"):
        assert hat_kernels.clip_factor([broken], [None], 1.0).isnan()


def test_two_launches_nothing_left_unwritten_and_the_same_bits():
    parameters, locks = mixed_dtypes()
    locks[0] = Lock(torch.zeros(11, device=DEVICE), torch.zeros(264, device=DEVICE))
    grads = grads_for(parameters)
    with hat_kernels.backend("triton"), count_launches() as launches, poisoned():
        norm = hat_kernels.gradient_norm(grads, locks)
    assert launches.total() == 2
    assert norm.isfinite()
    with hat_kernels.backend("triton"):
        assert torch.equal(norm, hat_kernels.gradient_norm(grads, locks))


def test_empty_and_everything_locked():
    empty = torch.empty(0, 3, device=DEVICE)
    assert both(hat_kernels.gradient_norm, [empty], [None]) == 0
    grad = on_device((7, 136))
    lock = Lock(torch.zeros(7, device=DEVICE), torch.zeros(136, device=DEVICE))
    assert both(hat_kernels.gradient_norm, [grad], [lock]) == 0
    assert both(hat_kernels.clip_factor, [grad], [lock], 1.0) == 1


def test_large_programs(monkeypatch):
    monkeypatch.setattr("hat_kernels.table.PROGRAMS", 1)
    parameters = [on_device((30, 136)), on_device((4100,)), on_device((30, 5, 3))]
    locks = [Lock(free(30), free(136)), None, Lock(free(30, seed=1), free(5))]
    both(hat_kernels.gradient_norm, grads_for(parameters), locks)


def test_compiles_and_opcheck():
    from hat_kernels.gradient_norm.triton import _gradient_norm_op
    from hat_kernels.operands import flatten

    grads, locks = grads_for([on_device((5, 7)), on_device((7,))]), [Lock(free(5), free(7)), None]

    def factor(grads):
        return hat_kernels.clip_factor(grads, locks, 0.5) * 2

    with hat_kernels.backend("triton"):
        assert torch.equal(factor(grads), torch.compile(factor, fullgraph=True, backend="aot_eager")(grads))
    torch.library.opcheck(_gradient_norm_op, (grads, *flatten(locks), None, 0.5, False))
