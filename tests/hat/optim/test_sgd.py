"""hat.optim.SGD: torch's SGD where nothing is locked, clipping, clamping, options."""

import copy

import pytest
import torch
import torch.nn.functional as F

import hat

pytestmark = pytest.mark.usefixtures("one_thread")

X, Y = torch.randn(5, 6, generator=torch.Generator().manual_seed(7)), torch.arange(5) % 2


def make():
    torch.manual_seed(0)
    model = hat.HATModel(hat.models.mlp(6, (9, 8), input_dropout=0.0, dropout=0.0))
    model.begin_task(2)
    return model


def loss_of(model):
    return F.cross_entropy(model(X), Y) + 0.75 * model.penalty()


def train(model, optimizer, steps=4, clip=None):
    for step in range(steps):
        model.anneal(step / max(1, steps - 1) * 0.01)
        optimizer.zero_grad()
        loss_of(model).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"maximize": True}])
def test_is_torch_sgd_in_the_first_task(options, max_norm):
    ours, theirs = make(), make()
    train(ours, hat.optim.SGD(ours.task_parameters(), lr=0.01, max_norm=max_norm, **options))
    other = torch.optim.SGD(theirs.task_parameters(), lr=0.01, foreach=False, **options)
    train(theirs, other, clip=max_norm)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        if max_norm is None:
            assert torch.equal(a, b)
        else:  # the norm is summed in another order: one rounding a step
            assert torch.allclose(a, b, rtol=0, atol=4 * 4 * torch.finfo(torch.float32).eps * b.abs().max().item())


def test_embeddings_are_clamped_and_do_not_decay():
    model = make()
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.fill_(7.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = [p.clone() for p in model.parameters()]
    hat.optim.SGD(model.task_parameters(), lr=0.1, weight_decay=1.0).step()
    assert all(torch.equal(e, torch.full_like(e, 6.0)) for e in model.embeddings)
    embeddings = {id(e) for e in model.embeddings}
    for parameter, old in zip(model.parameters(), before, strict=True):
        if id(parameter) not in embeddings:
            assert not torch.equal(parameter, old)


def test_clipping_counts_what_may_move_only():
    model = make()
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.copy_(torch.where(torch.arange(embedding.numel()) % 2 == 0, 1.0, -1.0))
    model.end_task()
    model.begin_task(2)
    first = model.body.network.linear1
    for parameter in model.task_parameters():
        parameter.grad = torch.zeros_like(parameter)
    first.weight.grad[0] = 1e6  # used units come first: locked
    first.weight.grad[-1, 0] = 3.0
    model.head.bias.grad[0] = 4.0
    before, bias = first.weight.detach().clone(), model.head.bias.detach().clone()
    hat.optim.SGD(model.task_parameters(), lr=1.0, max_norm=1.0).step()
    assert torch.equal(first.weight[0], before[0])
    # 3 and 4 make 5, so each is divided by 5 + 1e-6.
    ulp = torch.finfo(torch.float32).eps
    assert abs((before[-1, 0] - first.weight[-1, 0]).item() - 3 / (5 + 1e-6)) <= 4 * ulp
    assert abs((bias[0] - model.head.bias[0]).item() - 4 / (5 + 1e-6)) <= 4 * ulp


def test_closure_and_no_gradients():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, max_norm=1.0)
    assert optimizer.step() is None

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    before = model.head.weight.detach().clone()
    assert optimizer.step(closure).requires_grad
    assert not torch.equal(model.head.weight, before)


def test_state_dict_goes_on():
    one, other = make(), make()
    first = hat.optim.SGD(one.task_parameters(), lr=0.01, momentum=0.9)
    train(one, first)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    second = hat.optim.SGD(other.task_parameters(), lr=0.5, momentum=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(one, first)
    train(other, second)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_learning_rate_schedule():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.3)
    torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=1 / 3)
    assert optimizer.param_groups[0]["lr"] == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, r"lr: expected a finite number >= 0, got -0\.1"),
        ({"lr": float("nan")}, "lr: expected a finite number >= 0, got nan"),
        ({"momentum": -1.0}, r"momentum: expected a finite number >= 0, got -1\.0"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a finite number >= 0, got -1\.0"),
        ({"nesterov": True}, "nesterov: expected momentum > 0 and dampening 0"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov: expected momentum > 0 and dampening 0"),
        ({"max_norm": 0.0}, r"max_norm: expected a number > 0, got 0\.0"),
        ({"max_norm": float("nan")}, "max_norm: expected a number > 0, got nan"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        hat.optim.SGD(make().task_parameters(), **options)


def test_parameters_of_no_model():
    with pytest.raises(ValueError, match=r"params: expected model\.task_parameters\(\), or model=\.\.\., got"):
        hat.optim.SGD(torch.nn.Linear(2, 2).parameters())


def test_groups_of_one_model():
    model = make()
    groups = [{"params": list(model.body.parameters())}, {"params": list(model.head.parameters()), "lr": 0.0}]
    optimizer = hat.optim.SGD(groups, lr=0.1, model=model)
    before = model.head.weight.detach().clone(), model.body.network.linear1.weight.detach().clone()
    train(model, optimizer)
    assert torch.equal(model.head.weight, before[0])
    assert not torch.equal(model.body.network.linear1.weight, before[1])
