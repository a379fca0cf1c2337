"""The kernel against the reference: compensation, penalty, momentum, clamp, every gate in one launch."""

from __future__ import annotations

import pytest
import torch

import hat_kernels
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.parameters import bits, copies, free, grads_for, on_device
from tests.hat_kernels.shapes import lay_out

SIZES = [1, 7, 0, 1031]


def gates(sizes=SIZES):
    """(embeddings, plain gradients, free units)."""
    embeddings = [(2 * on_device((n,), seed=n)).clamp(-6, 6) for n in sizes]
    return embeddings, [0.1 * g for g in grads_for(embeddings)], [free(n, soft=True, seed=n) for n in sizes]


def run(backend, embeddings, grads, *, steps=2, **options):
    embeddings = copies(embeddings)
    buffers = [torch.full_like(e, torch.nan) for e in embeddings] if options.get("momentum") else []
    with hat_kernels.backend(backend):
        for step in range(steps):
            hat_kernels.embedding_update_(embeddings, grads, buffers, is_first_step=step == 0, **options)
    return [*embeddings, *buffers]


def compare(embeddings, grads, **options):
    expected, actual = (run(backend, embeddings, grads, **options) for backend in ("reference", "triton"))
    for a, b in zip(actual, expected, strict=True):
        # s e is rounded before the exponential, which multiplies a relative error by s e, below 50.
        size = b.abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=200 * torch.finfo(torch.float32).eps, atol=2e-6 * size)
    return actual


@pytest.mark.parametrize("scale", [1 / 400, 1.0, 8.0])
@pytest.mark.parametrize("compensation", ["none", "published", "exact"])
@pytest.mark.parametrize("penalty", [0.0, 0.75])
def test_compensation_and_penalty(penalty, compensation, scale):
    embeddings, grads, frees = gates()
    a = [torch.sigmoid(scale * e) for e in embeddings]
    grads = [g * scale * x * (1 - x) for g, x in zip(grads, a, strict=True)]
    options = {"compensation": compensation, "penalty": penalty, "frees": frees, "lr": 0.1, "momentum": 0.9}
    compare(embeddings, grads, scale=torch.tensor(scale, device=DEVICE), steps=1, **options)


@pytest.mark.parametrize("compensation", ["published", "exact"])
def test_saturated_gates(compensation):
    """s = 400: gates of exactly 1, underflow to 0, and the clamp of cosh; everything stays finite."""
    embeddings, _, frees = gates()
    scale = torch.tensor(400.0, device=DEVICE)
    a = [torch.sigmoid(scale * e) for e in embeddings]
    grads = [scale * x * (1 - x) for x in a]
    options = {"compensation": compensation, "penalty": 0.75, "frees": frees, "lr": 1e-3, "limit": 8.0}
    actual = run("triton", embeddings, grads, scale=scale, steps=1, **options)
    expected = run("reference", embeddings, grads, scale=scale, steps=1, **options)
    for a, b, e in zip(actual, expected, embeddings, strict=True):
        assert a.isfinite().all()
        # Where s e lies between the rounding of float32 and its underflow, a quotient amplifies the exponential.
        calm = (scale * e).abs() < 8
        torch.testing.assert_close(a[calm], b[calm], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9, "dampening": 0.2}, {"momentum": 0.9, "nesterov": True}, {"maximize": True, "limit": 0.5}],
)
def test_steps(options):
    embeddings, grads, _ = gates()
    lr, scale = torch.tensor(0.5, device=DEVICE), torch.tensor(0.25, device=DEVICE)
    compare(embeddings, grads, lr=lr, grad_scale=scale, **options)


def test_the_penalty_is_the_gradient_of_the_fraction():
    """Against autograd through the published penalty, both backends."""
    embeddings, grads, frees = gates()
    leaves, scale = [e.clone().requires_grad_() for e in embeddings], torch.tensor(3.0, device=DEVICE)
    attention = torch.cat([hat_kernels.gate(e, scale, compensation="published") for e in leaves])
    every = torch.cat(frees)
    (0.75 * (attention * every).sum() / every.sum()).backward()
    for backend in ("reference", "triton"):
        zeros = [torch.zeros_like(g) for g in grads]
        options = {"compensation": "published", "penalty": 0.75, "frees": frees, "scale": scale, "limit": 1e6}
        moved = run(backend, embeddings, zeros, lr=1.0, steps=1, **options)
        for after, leaf in zip(moved, leaves, strict=True):
            torch.testing.assert_close(after, leaf.detach() - leaf.grad, rtol=2e-5, atol=2e-5)


def test_nothing_is_free():
    embeddings, grads, frees = gates()
    frees = [torch.zeros_like(f) for f in frees]
    options = {"lr": 0.1, "scale": torch.ones((), device=DEVICE), "penalty": 0.75, "frees": frees}
    with_penalty = compare(embeddings, grads, **options)
    without = run("triton", embeddings, grads, lr=0.1)
    assert all(torch.equal(a, b) for a, b in zip(with_penalty, without, strict=True))


def test_overflow():
    embeddings, grads, _ = gates([5, 3])
    one, zero = torch.ones(1, device=DEVICE), torch.zeros(1, device=DEVICE)
    for backend in ("reference", "triton"):
        skipped = run(backend, embeddings, grads, lr=0.1, found_inf=one)
        assert all(torch.equal(a, b) for a, b in zip(skipped, embeddings, strict=True))
        taken = run(backend, embeddings, grads, lr=0.1, found_inf=zero)
        assert not torch.equal(taken[0], embeddings[0])
        broken = [torch.full_like(g, v) for g, v in zip(grads, (torch.nan, torch.inf), strict=True)]
        mended = run(backend, embeddings, broken, lr=0.1, mend=True)
        assert all(torch.equal(a, b) for a, b in zip(mended, embeddings, strict=True))
        assert run(backend, embeddings, broken, lr=0.1)[1].tolist() == [-6.0] * 3


def test_layouts():
    embeddings, grads, _ = gates([9, 40])
    embeddings[0] = lay_out(embeddings[0], "strided")
    grads[1] = lay_out(grads[1], "expanded")
    compare(embeddings, grads, lr=0.1, momentum=0.9)


def test_one_launch_and_the_same_bits():
    embeddings, grads, frees = gates()
    options = {"lr": 0.1, "scale": torch.ones((), device=DEVICE), "penalty": 0.75, "frees": frees, "momentum": 0.9}
    with count_launches() as launches:
        one = run("triton", embeddings, grads, steps=1, **options)
    assert dict(launches) == {"embedding_kernel": 1}
    other = run("triton", embeddings, grads, steps=1, **options)
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(one, other, strict=True))
    with count_launches() as launches:
        assert run("triton", [], [], lr=0.1) == []
    assert not launches


def test_compiles_and_opcheck():
    from hat_kernels.embedding_update.triton import _embedding_update_op

    embeddings, grads, frees = gates([5, 3])
    scale = torch.ones((), device=DEVICE)

    def update(embeddings):
        options = {"scale": scale, "compensation": "exact", "penalty": 0.75, "frees": frees}
        hat_kernels.embedding_update_(embeddings, grads, [], lr=0.1, **options)
        return embeddings[0] * 2

    results = []
    for function in (update, torch.compile(update, fullgraph=True, backend="aot_eager")):
        own = copies(embeddings)
        with hat_kernels.backend("triton"):
            results.append([function(own), *own])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    lists = (copies(embeddings), grads, [], frees)
    numbers, flags = [0.1, 0.0, 0.0, 6.0, 400.0, 0.75], [False] * 4
    torch.library.opcheck(_embedding_update_op, (*lists, None, None, None, scale, "exact", numbers, flags))


@pytest.mark.parametrize("missing", ["scale", "frees"])
def test_what_is_missing(missing):
    embedding = torch.zeros(3)
    options = {"penalty": 0.75, "scale": torch.ones(()), "frees": [torch.ones(3)]}
    options.pop(missing)
    with pytest.raises(ValueError, match=missing):
        hat_kernels.embedding_update_([embedding], [embedding], [], lr=0.1, **options)
