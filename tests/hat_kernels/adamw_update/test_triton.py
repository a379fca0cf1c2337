"""The kernel against the reference: dtypes, shapes, layouts, locks, scalars on the device, two launches."""

from __future__ import annotations

import pytest
import torch

import hat_kernels
from hat_kernels import Lock
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.parameters import (
    LISTS,
    assert_updates_agree,
    bits,
    copies,
    free,
    grads_for,
    locked,
    mixed_dtypes,
    on_device,
)
from tests.hat_kernels.shapes import lay_out


def run(backend, parameters, grads, locks, *, state_dtype=torch.float32, shared=False, taken=2, start=0.0, **options):
    """((parameters, moments...), counters) after `taken` steps on copies."""
    parameters = copies(parameters)
    count = 3 if options.get("amsgrad") else 2
    states = [[torch.full_like(p, start, dtype=state_dtype or p.dtype) for p in parameters] for _ in range(count)]
    one = torch.zeros((), device=DEVICE)
    steps = [one if shared else torch.zeros((), device=DEVICE) for _ in parameters]
    with hat_kernels.backend(backend):
        for _ in range(taken):
            moments = states if count == 3 else [*states, []]
            hat_kernels.adamw_update_(parameters, grads, *moments, steps, locks, **options)
    return (parameters, *states), steps


def compare(parameters, grads, locks, **options):
    expected, expected_steps = run("reference", parameters, grads, locks, **options)
    actual, steps = run("triton", parameters, grads, locks, **options)
    live = [index for index, p in enumerate(parameters) if p.numel()]
    assert [steps[i].item() for i in live] == [expected_steps[i].item() for i in live]
    assert_updates_agree(actual, expected, parameters, locks)
    return actual


def small():
    parameters = [on_device((9, 136)), on_device((5, 7)), on_device((9,))]
    return parameters, [Lock(free(9, soft=True), free(136)), Lock(free(5), free(7)), Lock(free(9))]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.1},
        {"amsgrad": True, "decoupled": False, "maximize": True, "mend": True},
        {"weight_decay": 0.0, "state_dtype": None, "taken": 1, "betas": (0.0, 0.5), "eps": 1e-3},
    ],
    ids=["adamw", "amsgrad", "own_dtype"],
)
def test_lists(name, options):
    parameters, locks = LISTS[name]()
    compare(parameters, grads_for(parameters), locks, lr=0.1, **options)


@pytest.mark.parametrize("taken", [1, 7])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.99999), (0.0, 0.0)])
def test_bias_correction(betas, taken):
    """Many small steps add up, so an error in a bias correction would show."""
    parameters = [on_device((40,))]
    compare(parameters, grads_for(parameters), [None], lr=0.1, betas=betas, taken=taken)


@pytest.mark.parametrize("layout", ["transposed", "expanded"])
def test_gradients_of_any_layout(layout):
    parameters, locks = small()
    compare(parameters, [lay_out(g, layout) for g in grads_for(parameters)], locks, lr=0.1)


def test_scalars_on_the_device_and_a_shared_counter():
    parameters, locks = small()
    lr, scale = torch.tensor(0.3, device=DEVICE), torch.tensor([0.25], device=DEVICE)
    zero = torch.zeros(1, device=DEVICE)
    options = {"lr": lr, "grad_scale": scale, "found_inf": zero, "shared": True}
    _, steps = run("triton", parameters, grads_for(parameters), locks, **options)
    assert steps[0].item() == 2
    compare(parameters, grads_for(parameters), locks, **options)


def test_nothing_happens_where_an_overflow_was_found():
    parameters, locks = small()
    for backend in ("reference", "triton"):
        (updated, *states), steps = run(
            backend, parameters, grads_for(parameters), locks, lr=0.1, found_inf=torch.ones((), device=DEVICE)
        )
        assert all(torch.equal(a, b) for a, b in zip(updated, parameters, strict=True))
        assert not any(s.any() for state in states for s in state)
        assert not any(steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_locked_weight_keeps_its_bits_and_its_moments(dtype):
    parameters = [p.to(dtype) for p in small()[0]]
    parameters[0][:, 0] = -0.0
    parameters[1][0] = torch.nan
    locks = small()[1]
    grads = [torch.full_like(p, torch.nan) for p in parameters]
    (updated, *states), _ = run("triton", parameters, grads, locks, lr=0.1, start=7.0)
    for index, (after, before, lock) in enumerate(zip(updated, parameters, locks, strict=True)):
        is_locked = locked(before, lock)
        assert is_locked.any()
        assert torch.equal(bits(after[is_locked]), bits(before[is_locked]))
        assert all((state[index][is_locked] == 7).all() for state in states)
        assert not after[~is_locked].isfinite().any()


def test_mending():
    parameters, locks = small()
    grads = grads_for(parameters)
    grads[0][:, 3], grads[1][2] = torch.inf, torch.nan
    (updated, *_), _ = run("triton", parameters, grads, locks, lr=0.1, mend=True)
    assert all(p.isfinite().all() for p in updated)
    compare(parameters, grads, locks, lr=0.1, mend=True)


def test_one_launch_after_the_count():
    parameters, locks = mixed_dtypes()
    with count_launches() as launches:
        run("triton", parameters, grads_for(parameters), locks, lr=0.1, taken=1)
    assert dict(launches) == {"advance_kernel": 1, "adamw_kernel": 1}


def test_nothing_to_do_is_no_launch():
    with count_launches() as launches, hat_kernels.backend("triton"):
        hat_kernels.adamw_update_([], [], [], [], [], [], [], lr=0.1)
    assert not launches


def test_twice_the_same_bits():
    parameters, locks = small()
    first_run, second_run = (run("triton", parameters, grads_for(parameters), locks, lr=0.1)[0] for _ in range(2))
    for first_tensors, second_tensors in zip(first_run, second_run, strict=True):
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(first_tensors, second_tensors, strict=True))


def test_large_programs(monkeypatch):
    monkeypatch.setattr("hat_kernels.table.PROGRAMS", 1)
    parameters = [on_device((30, 136)), on_device((4100,)), on_device((30, 5, 3))]
    locks = [Lock(free(30), free(136)), None, Lock(free(30, seed=1), free(5))]
    compare(parameters, grads_for(parameters), locks, lr=0.1, amsgrad=True, taken=1)


def test_compiles_and_opcheck():
    from hat_kernels.adamw_update.triton import _adamw_update_op
    from hat_kernels.operands import flatten

    parameters, locks = small()
    grads = grads_for(parameters)

    def update(parameters, m, v, steps):
        hat_kernels.adamw_update_(parameters, grads, m, v, [], steps, locks, lr=0.1)
        return parameters[0] * 2

    results = []
    for function in (update, torch.compile(update, fullgraph=True, backend="aot_eager")):
        weights, steps = copies(parameters), [torch.zeros((), device=DEVICE) for _ in parameters]
        m, v = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters]
        with hat_kernels.backend("triton"):
            results.append([function(weights, m, v, steps), *weights, *m, *v, *steps])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[0][-1].item() == 1

    lists = (copies(parameters), grads, m, v, [], steps)
    numbers, flags = [0.1, 0.9, 0.999, 1e-8, 0.01], [True, False, False, False]
    torch.library.opcheck(_adamw_update_op, (*lists, *flatten(locks), None, None, None, numbers, flags))
