"""Helpers for the tests of the training step: a small network, its batches, and training by hand or by a callable."""

import pytest
import torch
import torch.nn.functional as F

import hat

CLASSES, BATCH, STEPS = 2, 5, 6
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="emulates a GPU; test_gpu.py has one")
kernels = [
    pytest.mark.kernel,
    pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value"),
    interpreted,
]


def on_kernels(test):
    """A test that runs kernels as on a GPU."""
    for mark in kernels:
        test = mark(test)
    return test


OPTIMIZERS = {
    "sgd": lambda model: hat.optim.SGD(model.task_parameters(), lr=0.1, max_norm=1.0),
    "momentum": lambda model: hat.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda model: hat.optim.AdamW(model.task_parameters(), lr=0.01, max_norm=1.0),
    "guarded": lambda model: hat.guard(torch.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9), model),
}


def make(*, input_dropout=0.2, dropout=0.5):
    torch.manual_seed(0)
    body = hat.models.mlp(6, (9, 7), input_dropout=input_dropout, dropout=dropout)
    return hat.HATModel(body, config=hat.GateConfig(s_max=50.0))


def batch(number, size=BATCH):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, 6, generator=generator)
    return x, torch.randint(CLASSES, (size,), generator=generator)


def end(model):
    """End a task that uses a third of the units, so that some units are locked and some are free."""
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.copy_(torch.where(torch.arange(len(embedding)) % 3 == model.task, 2.0, -2.0))
    model.end_task()


def by_hand(model, optimizer, x, y, progress):
    model.anneal(progress)
    loss, penalty = F.cross_entropy(model(x), y), model.penalty()
    optimizer.zero_grad()
    (loss + 0.75 * penalty).backward()
    optimizer.step()
    return loss.item(), penalty.item()


def take_step(optimizer, closure):
    """One step after one gradient. Only LBFGS calls `closure`, which makes the gradient, as often as it wants."""
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def learn(optimizer, *, tasks=2, step=None, each=lambda number, optimizer: None, sizes=(BATCH,) * STEPS, **net):
    """(model, losses): trained by `step(model, optimizer)`, or by hand."""
    model, losses = make(**net), []
    for _ in range(tasks):
        model.begin_task(CLASSES)
        own = OPTIMIZERS[optimizer](model)
        call = None if step is None else step(model, own)
        for number, size in enumerate(sizes):
            x, y = batch(number, size)
            progress = number / (len(sizes) - 1)
            got = by_hand(model, own, x, y, progress) if call is None else call(x, y, progress=progress)
            losses.append(tuple(map(float, got)))
            each(number, own)
        end(model)
    return model, losses


def assert_equal(one, other):
    assert one[1] == other[1]
    for (name, a), b in zip(one[0].state_dict().items(), other[0].state_dict().values(), strict=True):
        assert torch.equal(a, b), name
