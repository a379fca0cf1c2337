"""The kernel against the reference: dtypes, shapes, layouts, locks, scalars on the device, one launch."""

from __future__ import annotations

import pytest
import torch

import hat_kernels
from hat_kernels import Lock
from hat_kernels.limits import LARGEST
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.parameters import (
    LISTS,
    assert_updates_agree,
    bits,
    copies,
    free,
    grads_for,
    layouts,
    locked,
    mixed_dtypes,
    on_device,
)
from tests.hat_kernels.shapes import lay_out


def run(backend, parameters, grads, locks, *, state_dtype=None, steps=2, **options):
    """(parameters, momentum buffers) after a step on copies."""
    parameters = copies(parameters)
    buffers = []
    if options.get("momentum"):
        buffers = [torch.full_like(p, torch.nan, dtype=state_dtype or p.dtype) for p in parameters]
    with hat_kernels.backend(backend):
        for step in range(steps):
            hat_kernels.sgd_update_(parameters, grads, buffers, locks, is_first_step=step == 0, **options)
    return parameters, buffers


def compare(parameters, grads, locks, **options):
    expected = run("reference", parameters, grads, locks, **options)
    actual = run("triton", parameters, grads, locks, **options)
    assert_updates_agree(actual, expected, parameters, locks)
    return actual


def small():
    """A SEPARABLE weight, a GATHERED weight and a bias."""
    parameters = [on_device((9, 136)), on_device((5, 7)), on_device((9,))]
    return parameters, [Lock(free(9), free(136)), Lock(free(5), free(7)), Lock(free(9))]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "options",
    [
        {"steps": 1},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "maximize": True, "mend": True},
        {"momentum": 0.9, "dampening": 0.25, "state_dtype": torch.float32},
    ],
    ids=["plain", "momentum", "nesterov", "dampening"],
)
def test_lists(name, options):
    parameters, locks = LISTS[name]()
    compare(parameters, grads_for(parameters), locks, lr=0.1, **options)


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_gradients_of_any_layout(layout):
    parameters, locks = small()
    grads = [lay_out(g, layout) for g in grads_for(parameters)]
    compare(parameters, grads, locks, lr=0.1, momentum=0.9)


def test_gradients_whose_channels_lie_elsewhere():
    parameters, locks = layouts()
    grads = [g.contiguous() for g in grads_for(parameters)]
    elsewhere = [g.to(memory_format=torch.channels_last) for g in grads[:2]]
    compare([p.contiguous() for p in parameters[:2]], elsewhere, locks[:2], lr=0.1)
    compare(parameters, grads, locks, lr=0.1)


def test_scalars_on_the_device():
    parameters, locks = small()
    lr, scale = torch.tensor(0.3, device=DEVICE), torch.tensor([0.25], device=DEVICE)
    zero = torch.zeros(1, device=DEVICE)
    compare(parameters, grads_for(parameters), locks, lr=lr, grad_scale=scale, found_inf=zero, momentum=0.9)


def test_nothing_happens_where_an_overflow_was_found():
    parameters, locks = small()
    options = {"lr": 0.1, "momentum": 0.9, "found_inf": torch.ones((), device=DEVICE)}
    for backend in ("reference", "triton"):
        updated, buffers = run(backend, parameters, grads_for(parameters), locks, **options)
        assert all(torch.equal(a, b) for a, b in zip(updated, parameters, strict=True))
        assert all(b.isnan().all() for b in buffers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_locked_weight_keeps_its_bits_whatever_the_gradient(value, dtype):
    parameters = [p.to(dtype) for p in small()[0]]
    parameters[0][:, 0] = -0.0
    parameters[1][0] = torch.nan
    locks = small()[1]
    grads = [torch.full_like(p, value) for p in parameters]
    updated, buffers = run("triton", parameters, grads, locks, lr=0.1, momentum=0.9)
    for after, buffer, before, lock in zip(updated, buffers, parameters, locks, strict=True):
        is_locked = locked(before, lock)
        assert is_locked.any()
        assert torch.equal(bits(after[is_locked]), bits(before[is_locked]))
        assert buffer[is_locked].isnan().all()  # as it was given
        assert not after[~is_locked].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_mending(dtype):
    """Elements of a gradient that are not finite count as 0. With a lock, results are clamped, too."""
    big = torch.finfo(dtype).max
    parameters = [
        torch.full((9, 136), big, dtype=dtype, device=DEVICE),
        torch.full((9,), big, dtype=dtype, device=DEVICE),
    ]
    locks = [Lock(free(9), free(136)), None]
    grads = [torch.full_like(p, -big) for p in parameters]
    grads[0][:, 1] = torch.nan
    grads[1][0] = torch.inf
    updated, _ = compare(parameters, grads, locks, lr=1.0, mend=True, steps=1)
    moving = ~locked(parameters[0], locks[0])
    assert updated[0][:, 1].tolist() == torch.where(moving[:, 1], LARGEST, big).tolist()
    moving[:, 1] = False
    assert (updated[0][moving] == 0).all()
    assert updated[1][0] == big
    assert updated[1][1:].isinf().all()


def test_locked_tiles_read_nothing():
    """A gradient at an address that must not be read, behind a lock."""
    parameter = on_device((16, 264))
    lock = Lock(torch.zeros(16, device=DEVICE), torch.zeros(264, device=DEVICE))
    updated, _ = run("triton", [parameter], [torch.full_like(parameter, torch.nan)], [lock], lr=0.1)
    assert torch.equal(updated[0], parameter)


@pytest.mark.parametrize("options", [{"momentum": 0.9}, {}])
def test_one_launch_for_a_mixed_list(options):
    parameters, locks = mixed_dtypes()
    parameters.append(on_device((6, 4, 3, 3)))
    locks.append(None)
    with count_launches() as launches:
        run("triton", parameters, grads_for(parameters), locks, lr=0.1, steps=1, **options)
    assert dict(launches) == {"sgd_kernel": 1}


def test_nothing_to_do_is_no_launch():
    with count_launches() as launches, hat_kernels.backend("triton"):
        hat_kernels.sgd_update_([], [], [], [], lr=0.1)
        empty = torch.empty(0, 3, device=DEVICE)
        hat_kernels.sgd_update_([empty], [empty], [], [None], lr=0.1)
    assert not launches


def test_twice_the_same_bits():
    parameters, locks = small()
    first_run, second_run = (
        run("triton", parameters, grads_for(parameters), locks, lr=0.1, momentum=0.9) for _ in range(2)
    )
    for a, b in zip([*first_run[0], *first_run[1]], [*second_run[0], *second_run[1]], strict=True):
        assert torch.equal(bits(a), bits(b))


def test_large_programs(monkeypatch):
    """Several tiles for each program, as in large models; programs at the edges have fewer."""
    monkeypatch.setattr("hat_kernels.table.PROGRAMS", 1)
    parameters = [on_device((30, 136)), on_device((4100,)), on_device((30, 5, 3)), on_device((70, 136))]
    rows = free(70)
    rows[:40] = 0
    locks = [Lock(free(30), free(136)), None, Lock(free(30, seed=1), free(5)), Lock(rows)]
    compare(parameters, grads_for(parameters), locks, lr=0.1, momentum=0.9, steps=1)


def test_autograd_sees_the_change():
    parameter = on_device((3, 8)).requires_grad_()
    loss = (parameter * parameter).sum()
    with hat_kernels.backend("triton"), torch.no_grad():
        hat_kernels.sgd_update_([parameter], [torch.ones_like(parameter)], [], [None], lr=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_compiles():
    parameters, locks = small()
    grads, lr = grads_for(parameters), torch.tensor(0.1, device=DEVICE)

    def update(parameters, buffers, grads, rate):
        hat_kernels.sgd_update_(parameters, grads, buffers, locks, lr=rate, momentum=0.9)
        return parameters[0] * 2

    compiled = torch.compile(update, fullgraph=True, backend="aot_eager")
    for rate in (0.1, lr):
        results = []
        for function in (update, compiled):
            weights, buffers = copies(parameters), [torch.zeros_like(p) for p in parameters]
            with hat_kernels.backend("triton"):
                results.append([function(weights, buffers, grads, rate), *weights, *buffers])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_opcheck():
    from hat_kernels.operands import flatten
    from hat_kernels.sgd_update.triton import _sgd_update_op

    parameters, locks = small()
    buffers = [torch.zeros_like(p) for p in parameters]
    arguments = [parameters, grads_for(parameters), buffers, *flatten(locks), None, None, None, None]
    torch.library.opcheck(_sgd_update_op, (*arguments, [0.1, 0.9, 0.0, 0.0], [False, False, False, False]))
