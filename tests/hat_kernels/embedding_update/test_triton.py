"""The kernel against the reference: momentum, clamp, all gates in one launch."""

from __future__ import annotations

import pytest
import torch

import hat_kernels
from hat_kernels.operands import flatten
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.parameters import bits, copies, grads_for, on_device
from tests.hat_kernels.shapes import lay_out

SIZES = [1, 7, 0, 1031]


def gates(sizes=SIZES):
    """(embeddings, gradients)."""
    embeddings = [(2 * on_device((n,), seed=n)).clamp(-6, 6) for n in sizes]
    return embeddings, [0.1 * g for g in grads_for(embeddings)]


def run(backend, embeddings, grads, *, steps=2, **options):
    embeddings = copies(embeddings)
    buffers = [torch.full_like(e, torch.nan) for e in embeddings] if options.get("momentum") else []
    with hat_kernels.backend(backend):
        for step in range(steps):
            hat_kernels.embedding_update_(embeddings, grads, buffers, is_first_step=step == 0, **options)
    return [*embeddings, *buffers]


def compare(embeddings, grads, **options):
    eps = torch.finfo(torch.float32).eps
    expected, actual = (run(backend, embeddings, grads, **options) for backend in ("reference", "triton"))
    for a, b in zip(actual, expected, strict=True):
        # A fused multiply-add rounds once, the reference twice.
        size = b.abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=8 * eps, atol=4 * eps * size)


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9, "dampening": 0.2}, {"momentum": 0.9, "nesterov": True}, {"maximize": True, "limit": 0.5}],
)
def test_steps(options):
    embeddings, grads = gates()
    lr, scale = torch.tensor(0.5, device=DEVICE), torch.tensor(0.25, device=DEVICE)
    compare(embeddings, grads, lr=lr, grad_scale=scale, **options)


def test_overflow():
    embeddings, grads = gates([5, 3])
    first_run, zero = torch.ones(1, device=DEVICE), torch.zeros(1, device=DEVICE)
    for backend in ("reference", "triton"):
        skipped = run(backend, embeddings, grads, lr=0.1, found_inf=first_run)
        assert all(torch.equal(a, b) for a, b in zip(skipped, embeddings, strict=True))
        taken = run(backend, embeddings, grads, lr=0.1, found_inf=zero)
        assert not torch.equal(taken[0], embeddings[0])
        broken = [torch.full_like(g, v) for g, v in zip(grads, (torch.nan, torch.inf), strict=True)]
        mended = run(backend, embeddings, broken, lr=0.1, mend=True)
        assert all(torch.equal(a, b) for a, b in zip(mended, embeddings, strict=True))
        assert run(backend, embeddings, broken, lr=0.1)[1].tolist() == [-6.0] * 3


def test_layouts():
    embeddings, grads = gates([9, 40])
    embeddings[0] = lay_out(embeddings[0], "strided")
    grads[1] = lay_out(grads[1], "expanded")
    compare(embeddings, grads, lr=0.1, momentum=0.9)


def test_one_launch_and_the_same_bits():
    embeddings, grads = gates()
    options = {"lr": 0.1, "momentum": 0.9}
    with count_launches() as launches:
        first_run = run("triton", embeddings, grads, steps=1, **options)
    assert dict(launches) == {"sgd_kernel": 1}
    second_run = run("triton", embeddings, grads, steps=1, **options)
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(first_run, second_run, strict=True))
    with count_launches() as launches:
        assert run("triton", [], [], lr=0.1) == []
    assert not launches


def test_compiles_and_opcheck():
    from hat_kernels.sgd_update.triton import _sgd_update_op

    embeddings, grads = gates([5, 3])

    def update(embeddings):
        hat_kernels.embedding_update_(embeddings, grads, [], lr=0.1)
        return embeddings[0] * 2

    results = []
    for function in (update, torch.compile(update, fullgraph=True, backend="aot_eager")):
        weights = copies(embeddings)
        with hat_kernels.backend("triton"):
            results.append([function(weights), *weights])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    numbers, flags, no_locks = [0.1, 0.0, 0.0, 0.0], [False] * 4, flatten([None, None])
    torch.library.opcheck(
        _sgd_update_op, (copies(embeddings), grads, [], *no_locks, None, None, None, 6.0, numbers, flags)
    )
