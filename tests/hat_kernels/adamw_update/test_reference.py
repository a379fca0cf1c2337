"""Locked Adam and AdamW. Without a lock they agree with torch to float rounding."""

import itertools

import pytest
import torch

import hat_kernels
from tests.hat_kernels.locks import lock_for, rates
from tests.hat_kernels.shapes import PARAMETER_SHAPES, normal

STEPS = 5
OPTIONS = [
    {"weight_decay": w, "amsgrad": a, "maximize": m}
    for w, a, m in itertools.product([0.0, 0.1], [False, True], [False, True])
]


def grads_of(step, parameters):
    return [normal(tuple(p.shape), p.dtype, 100 * step + index) for index, p in enumerate(parameters)]


def run(parameters, locks, *, state_dtype=None, **options):
    states = [[torch.zeros_like(p, dtype=state_dtype) for p in parameters] for _ in range(3)]
    steps = [torch.zeros(()) for _ in parameters]
    for step in range(STEPS):
        hat_kernels.adamw_update_(parameters, grads_of(step, parameters), *states, steps, locks, **options)
    return states, steps


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("decoupled", [True, False], ids=["AdamW", "Adam"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_torch_where_nothing_is_locked(dtype, decoupled, options):
    parameters = [normal(s, dtype, i) for i, s in enumerate(PARAMETER_SHAPES) if 0 not in s]
    theirs = [p.clone().requires_grad_() for p in parameters]
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind(theirs, lr=0.05, betas=(0.8, 0.99), eps=1e-6, foreach=False, **options)
    for step in range(STEPS):
        for p, grad in zip(theirs, grads_of(step, theirs), strict=True):
            p.grad = grad
        optimizer.step()
    lr = torch.tensor(0.05, dtype=torch.float64)
    run(parameters, [None] * len(parameters), lr=lr, betas=(0.8, 0.99), eps=1e-6, decoupled=decoupled, **options)
    for a, b in zip(parameters, theirs, strict=True):
        atol = STEPS * torch.finfo(dtype).eps * b.abs().max().item()
        torch.testing.assert_close(a, b.detach(), rtol=0, atol=atol)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_is_the_equation_under_a_soft_lock(amsgrad):
    """The moments agree with those of torch, and the change of the weight is multiplied by the rate."""
    parameter = normal((13, 31), torch.float64)
    lock = lock_for(parameter, "both", soft=True)
    r, theirs = rates(parameter, lock), parameter.clone().requires_grad_()
    optimizer = torch.optim.AdamW([theirs], lr=0.05, weight_decay=0.1, amsgrad=amsgrad)
    parameters = [parameter.clone()]
    states, steps = [[torch.zeros_like(parameter)] for _ in range(3)], [torch.zeros(())]
    for step in range(STEPS):
        grads = grads_of(step, parameters)
        with torch.no_grad():
            theirs.copy_(parameters[0])
        theirs.grad = grads[0]
        optimizer.step()
        before = parameters[0].clone()
        hat_kernels.adamw_update_(parameters, grads, *states, steps, [lock], lr=0.05, weight_decay=0.1, amsgrad=amsgrad)
        expected = before + r * (theirs.detach() - before)
        torch.testing.assert_close(parameters[0], expected, rtol=0, atol=8 * torch.finfo(torch.float64).eps)
        assert torch.equal(parameters[0][r == 0], parameter[r == 0])
        assert not any(state[0][r == 0].any() for state in states)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_weights_keep_float32_moments(dtype):
    parameters = [normal((5, 7), dtype)]
    states, _ = run(parameters, [None], lr=0.05, state_dtype=torch.float32)
    assert parameters[0].dtype == dtype
    exact = normal((5, 7), dtype).double()
    moment = torch.zeros_like(exact)
    for step in range(STEPS):
        moment.lerp_(grads_of(step, parameters)[0].double(), 0.1)
    torch.testing.assert_close(states[0][0].double(), moment, rtol=0, atol=4 * torch.finfo(torch.float32).eps)
