"""Loss scaling: unscaled in the update, an overflow leaves the step out, and clipping is of unscaled gradients."""

import pytest
import torch
import torch.nn.functional as F

import hat
import hat_kernels

pytestmark = pytest.mark.usefixtures("one_thread")

X, Y = torch.randn(5, 6, generator=torch.Generator().manual_seed(7)), torch.arange(5) % 2
SCALE = 2.0**10
OPTIMIZERS = [
    lambda p, **o: hat.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, **o),
    lambda p, **o: hat.optim.AdamW(p, lr=0.1, **o),
]


def make():
    torch.manual_seed(0)
    model = hat.HATModel(hat.models.mlp(6, (9, 8), input_dropout=0.0, dropout=0.0))
    model.begin_task(2)
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.copy_(torch.where(torch.arange(embedding.numel()) % 2 == 0, 1.0, -1.0))
    model.end_task()
    torch.manual_seed(1)
    model.begin_task(2)
    return model


def step(model, optimizer, scaler=None, *, unscale=False, overflow=False, backend="auto"):
    optimizer.zero_grad()
    model.anneal(0.01)
    loss = F.cross_entropy(model(X), Y) + 0.75 * model.penalty()
    if scaler is None:
        loss.backward()
        optimizer.step()
        return
    scaler.scale(loss).backward()
    if overflow:
        model.head.weight.grad[0, 0] = torch.inf
    if unscale:
        scaler.unscale_(optimizer)
    with hat_kernels.backend(backend):
        scaler.step(optimizer)
    scaler.update()


def snapshot(model, optimizer):
    states = [v for state in optimizer.state.values() for v in state.values()]
    flat = [part for value in states for part in (value if isinstance(value, list) else [value])]
    return [tensor.detach().clone() for tensor in [*model.parameters(), *flat]]


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("max_norm", [None, 1e-2])
@pytest.mark.parametrize("make_optimizer", OPTIMIZERS, ids=["SGD", "AdamW"])
def test_is_the_step_without_scaling(make_optimizer, max_norm, unscale, backend):
    plain, scaled = make(), make()
    one = make_optimizer(plain.task_parameters(), max_norm=max_norm)
    other = make_optimizer(scaled.task_parameters(), max_norm=max_norm)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    for _ in range(3):
        step(plain, one)
        step(scaled, other, scaler, unscale=unscale, backend=backend)
    for a, b in zip(snapshot(plain, one), snapshot(scaled, other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("make_optimizer", OPTIMIZERS, ids=["SGD", "AdamW"])
def test_an_overflow_leaves_the_step_out(make_optimizer, unscale):
    model = make()
    optimizer = make_optimizer(model.task_parameters(), max_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    step(model, optimizer, scaler, unscale=unscale)
    before = snapshot(model, optimizer)
    step(model, optimizer, scaler, unscale=unscale, overflow=True)
    assert scaler.get_scale() == SCALE / 2
    assert all(torch.equal(a, b) for a, b in zip(snapshot(model, optimizer), before, strict=True))
    step(model, optimizer, scaler, unscale=unscale)
    after = snapshot(model, optimizer)
    assert not all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(p.isfinite().all() for p in after)


def test_the_scale_does_not_stay():
    """GradScaler leaves its tensors for one step only."""
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1)
    step(model, optimizer, torch.amp.GradScaler("cpu", init_scale=SCALE))
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


def test_a_gradient_that_a_scaler_has_made_larger_is_clipped():
    """A scaler changes gradients without a new version number, so the known norms of the gradients must not count."""
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=1.0, max_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-20)
    step(model, optimizer, scaler)
    before = [p.detach().clone() for p in model.parameters()]
    step(model, optimizer, scaler, unscale=True)
    moved = torch.stack([(p - old).norm() for p, old in zip(model.parameters(), before, strict=True)]).norm()
    assert moved <= 1.0 + 1e-5
