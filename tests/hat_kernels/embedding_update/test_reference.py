"""The step on embeddings is that of torch.optim.SGD without weight decay, then a clamp."""

import pytest
import torch

import hat_kernels
from tests.hat_kernels.shapes import lay_out, normal

OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.2},
    {"momentum": 0.9, "nesterov": True},
    {"maximize": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("limit", [6.0, 0.5])
def test_is_torch_sgd_and_a_clamp(limit, options):
    sizes = [1, 7, 129, 0]
    embeddings = [normal((n,), seed=n).clamp(-limit, limit) for n in sizes]
    theirs = [e.clone().requires_grad_() for e in embeddings]
    optimizer = torch.optim.SGD(theirs, lr=0.5, foreach=False, **options)
    buffers = [torch.full_like(e, torch.nan) for e in embeddings] if "momentum" in options else []
    for step in range(4):
        grads = [3 * normal((n,), seed=100 * step + n) for n in sizes]
        for e, grad in zip(theirs, grads, strict=True):
            e.grad = grad.clone()
        optimizer.step()
        with torch.no_grad():
            for e in theirs:
                e.clamp_(-limit, limit)
        hat_kernels.embedding_update_(
            embeddings, grads, buffers, lr=0.5, limit=limit, is_first_step=step == 0, **options
        )
    assert all(torch.equal(a, b) for a, b in zip(embeddings, theirs, strict=True))
    assert max(e.abs().max() for e in embeddings if e.numel()) == limit


def test_grad_scale_tensor_lr_and_stride_0():
    embedding, grad = torch.zeros(5), torch.ones(()).expand(5)
    hat_kernels.embedding_update_([embedding], [grad], [], lr=torch.tensor(0.5), grad_scale=torch.tensor(0.25))
    assert torch.equal(embedding, torch.full((5,), -0.125))
    assert torch.equal(grad, torch.ones(5))


def test_strided_embedding():
    embedding, grad = lay_out(normal((9,)), "strided"), normal((9,), seed=1)
    expected = (embedding - 0.1 * grad).clamp(-6, 6)
    hat_kernels.embedding_update_([embedding], [grad], [], lr=0.1)
    assert torch.allclose(embedding, expected, rtol=2 * torch.finfo(torch.float32).eps, atol=0)


def test_infinite_gradients_are_clamped():
    embedding = torch.zeros(2)
    hat_kernels.embedding_update_([embedding], [torch.tensor([torch.inf, -torch.inf])], [], lr=0.1)
    assert embedding.tolist() == [-6.0, 6.0]


def test_no_gate():
    hat_kernels.embedding_update_([], [], [], lr=0.1)
