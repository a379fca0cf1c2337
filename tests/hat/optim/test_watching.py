"""Optimizers that nobody guards, and heads and embeddings in no optimizer, are told at their first step."""

from __future__ import annotations

import copy
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.optim import watching

X, Y = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


@pytest.fixture(autouse=True)
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error", hat.UnguardedWarning)
        warnings.simplefilter("error", hat.UntrainedWarning)
        yield


def made(tasks=1):
    torch.manual_seed(0)
    model = hat.HATModel(hat.models.mlp(6, (8, 8)))
    for _ in range(tasks):
        model.begin_task(3)
        with torch.no_grad():
            for gate in model.gates.values():
                gate.embedding.copy_(torch.tensor([1, -1] * 4))
        model.end_task()
    model.begin_task(3)
    return model


def backward(model):
    (F.cross_entropy(model(X), Y) + model.penalty()).backward()


def step(model, *optimizers):
    for optimizer in optimizers:
        optimizer.zero_grad()
    backward(model)
    for optimizer in optimizers:
        optimizer.step()


def test_an_optimizer_that_nobody_guards():
    model = made()
    optimizer = torch.optim.AdamW(model.task_parameters())
    with pytest.warns(hat.UnguardedWarning, match=r"AdamW holds body.network.linear1.weight.*call hat.guard") as told:
        step(model, optimizer)
    assert told[0].filename == __file__
    step(model, optimizer)  # told once
    with pytest.warns(hat.DriftWarning, match=r"body.network.linear1.weight has moved"):
        model.end_task()


def test_nothing_is_locked_yet():
    model = made(0)
    step(model, torch.optim.AdamW(model.task_parameters()))


def test_it_is_told_as_soon_as_something_is_locked():
    model = made(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, optimizer)
    model.end_task()
    model.begin_task(3)
    optimizer.add_param_group({"params": model.head.parameters()})
    with pytest.warns(hat.UnguardedWarning, match="SGD holds body"):
        step(model, optimizer)


class Outer(torch.optim.Optimizer):
    """An optimizer around another one."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__(inner.param_groups, {})

    def step(self, closure=None):
        self.inner.step()


def guarded(model):
    return hat.guard(torch.optim.AdamW(model.task_parameters()), model)


def of_another_network(model):
    other = nn.Linear(6, 3)
    F.cross_entropy(other(X), Y).backward()
    return torch.optim.SGD(other.parameters(), lr=0.1)


def of_the_head_alone(model):
    return torch.optim.SGD([*model.head.parameters(), *model.embeddings], lr=0.1)


QUIET = [
    lambda m: hat.optim.SGD(m.task_parameters(), lr=0.1),
    lambda m: hat.optim.AdamW(m.task_parameters()),
    guarded,
    lambda m: copy.deepcopy(guarded(m)),
    lambda m: hat.guard(Outer(torch.optim.SGD(m.task_parameters(), lr=0.1)), m),
    of_another_network,
    of_the_head_alone,
]


@pytest.mark.parametrize("make", QUIET)
def test_no_alarm(make):
    model = made()
    optimizer = make(model)
    for _ in range(2):
        step(model, optimizer)
    model.end_task()


@pytest.mark.parametrize("order", [1, -1])
def test_two_optimizers(order):
    model = made()
    body = hat.guard(torch.optim.SGD([*model.body.parameters()], lr=0.1), model)
    head = torch.optim.SGD(model.head.parameters(), lr=0.1)
    for _ in range(2):
        step(model, *[body, head][::order])


def test_a_second_optimizer_that_starts_late():
    model = made()
    body = hat.optim.SGD(model.body.parameters(), lr=0.1, model=model)
    head = torch.optim.SGD(model.head.parameters(), lr=0.1)
    for _ in range(3):
        step(model, body)
    step(model, body, head)


def test_accumulated_gradients_and_a_schedule():
    model = made()
    optimizer = guarded(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(3):
        backward(model)
    optimizer.step()
    schedule.step()


def test_a_head_in_no_optimizer_is_told_once_a_task():
    model = made(0)
    optimizer = hat.optim.SGD([*model.body.parameters()], lr=0.1, model=model)
    for task in range(2):
        with pytest.warns(hat.UntrainedWarning, match=f"heads.{task}.weight has a gradient but is in no opti") as told:
            step(model, optimizer)
        assert told[0].filename == __file__
        step(model, optimizer)
        model.end_task()
        model.begin_task(3)


def test_an_optimizer_that_holds_only_the_head_of_an_earlier_task():
    model = made(0)
    model.body.requires_grad_(False)
    optimizer = hat.optim.SGD(model.head.parameters(), lr=0.1, model=model)
    step(model, optimizer)
    model.end_task()
    model.begin_task(3)
    with pytest.warns(hat.UntrainedWarning, match=r"heads.1.weight has a gradient but is in no optimizer"):
        step(model, optimizer)


def test_a_head_that_is_added_in_time():
    model = made(0)
    optimizer = hat.optim.SGD([*model.body.parameters()], lr=0.1, model=model)
    optimizer.add_param_group({"params": model.head.parameters()})
    step(model, optimizer)


def test_a_head_that_gets_its_first_gradient_later():
    model = made()
    optimizer = hat.optim.SGD(model.body.parameters(), lr=0.1, model=model)
    for _ in range(2):
        model.penalty().backward()
        optimizer.step()
    backward(model)
    with pytest.warns(hat.UntrainedWarning, match="heads.1.weight"):
        optimizer.step()


def test_a_head_that_is_frozen_on_purpose():
    model = made()
    model.head.requires_grad_(False)
    step(model, hat.optim.SGD(model.body.parameters(), lr=0.1, model=model))


def test_an_embedding_in_no_optimizer():
    model = made()
    embeddings = {id(embedding) for embedding in model.embeddings}
    optimizer = hat.optim.SGD([p for p in model.task_parameters() if id(p) not in embeddings], lr=0.1, model=model)
    with pytest.warns(
        hat.UntrainedWarning, match=r"body.gates.linear1.embedding has a gradient but is in no optimizer"
    ):
        step(model, optimizer)


def test_a_head_of_the_users_own():
    model = made()
    model.heads[1] = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.warns(hat.UntrainedWarning, match="heads.1.0.weight"):
        step(model, hat.optim.SGD(model.body.parameters(), lr=0.1, model=model))


def test_a_copy_in_the_middle_of_a_task_is_watched_too():
    model = copy.deepcopy(made())
    with pytest.warns(hat.UnguardedWarning):
        step(model, torch.optim.SGD(model.task_parameters(), lr=0.1))


def test_a_step_calls_little():
    """After the first step of a task, the watcher compares two numbers."""
    model = made()
    optimizer = guarded(model)
    step(model, optimizer)
    calls = []

    def note(frame, event, _):
        if event == "call":
            calls.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        watching._before_step(optimizer, (), {})
    finally:
        sys.setprofile(None)
    assert calls == ["_before_step", "get"]


def test_a_guard_of_another_model_guards_no_shared_layer():
    shared = nn.Linear(8, 8)

    def converted():
        return hat.convert(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), shared, nn.ReLU(), nn.Linear(8, 3)), X[:2])

    first, second = converted(), converted()
    first.begin_task(3)
    with torch.no_grad():
        for gate in first.gates.values():
            gate.embedding.fill_(1)
    first.end_task()
    second.begin_task(3)
    optimizer = hat.guard(torch.optim.SGD(second.task_parameters(), 0.1), second)
    F.cross_entropy(second(X), Y).backward()
    with pytest.raises(hat.UnguardedWarning, match=r"body\.network\.2\.weight"):
        optimizer.step()


OUTGROWN = {
    "adam": lambda p: torch.optim.Adam(p),
    "fused adam": lambda p: torch.optim.Adam(p, fused=True),
    "foreach adamw": lambda p: torch.optim.AdamW(p, foreach=True),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "fused adagrad": lambda p: torch.optim.Adagrad(p, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p),
}


@pytest.mark.parametrize("make", OUTGROWN.values(), ids=OUTGROWN)
def test_states_that_the_network_has_outgrown_are_refused_in_every_step(make):
    """A fused step would read past the end of the states and crash the process."""
    model = made(tasks=0)
    optimizer = make(model.task_parameters())
    step(model, optimizer)
    hat.grow(model, by=300)
    optimizer.zero_grad()
    backward(model)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r": expected \w+ of body\.\S+ to be \(308, 6\), got \(8, 6\): .*grown"):
            optimizer.step()
    step(model, make(model.task_parameters()))


def test_states_of_another_form_are_not_outgrown():
    model = made(tasks=0)
    optimizer = torch.optim.Adafactor(model.task_parameters())
    step(model, optimizer)
    model.end_task()
    model.begin_task(3)
    optimizer.add_param_group({"params": list(model.head.parameters())})
    with pytest.warns(hat.UnguardedWarning):
        step(model, optimizer)


def test_an_optimizer_whose_constructor_has_failed_is_none():
    with pytest.raises(ValueError, match="empty") as error:
        torch.optim.AdamW([])
    model = made()
    first = hat.optim.SGD(list(model.body.parameters()), lr=0.1, model=model)
    with pytest.warns(hat.UntrainedWarning, match="heads.1.weight"):
        step(model, first)
    assert error.value.args  # the traceback holds the optimizer without groups
