"""What optimizers, the guard and a training step refuse, each in one line; and what goes on working."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import hat

OPTIMIZERS = [hat.optim.SGD, hat.optim.AdamW]


def learning() -> hat.HATModel:
    model = hat.HATModel(hat.models.mlp(4, hidden=(5,)))
    model.begin_task(classes=2)
    return model


def refuses(message: str):
    return pytest.raises((TypeError, ValueError), match=rf"^{message}[^\n]*$")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "lr", [math.nan, math.inf, -1.0, True, "0.1", None, 10**30, 1j, torch.tensor(math.nan), torch.tensor(-1.0)]
)
def test_a_learning_rate_is_a_finite_number(optimizer, lr):
    model = learning()
    with refuses("lr: expected"):
        optimizer(model.task_parameters(), lr=lr)
    made = optimizer(model.task_parameters())
    with refuses("lr: expected"):
        made.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": lr})
    assert len(made.param_groups) == 1
    state = made.state_dict()
    state["param_groups"][0]["lr"] = lr
    with refuses("lr: expected"):
        made.load_state_dict(state)


@pytest.mark.parametrize(
    "lr", [torch.tensor(1), torch.ones(2), torch.ones((), device="meta"), torch.ones(1).to_sparse()]
)
def test_a_learning_rate_in_a_tensor_is_floating_has_one_element_and_can_be_read(lr):
    with refuses("lr: expected"):
        hat.optim.SGD(learning().task_parameters(), lr=lr)


def test_learning_rates_that_pass():
    for lr in (0, 0.1, 1, np.float32(0.1), np.float64(0.1), torch.tensor(0.1), torch.tensor([0.1])):
        model = learning()
        optimizer = hat.optim.SGD(model.task_parameters(), lr=lr)
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (hat.optim.SGD, {"momentum": math.nan}),
        (hat.optim.SGD, {"momentum": math.inf}),
        (hat.optim.SGD, {"dampening": math.nan}),
        (hat.optim.SGD, {"weight_decay": math.inf}),
        (hat.optim.SGD, {"nesterov": "yes", "momentum": 0.9}),
        (hat.optim.SGD, {"maximize": 1}),
        (hat.optim.SGD, {"in_backward": "yes"}),
        (hat.optim.SGD, {"max_norm": math.nan}),
        (hat.optim.SGD, {"max_norm": True}),
        (hat.optim.SGD, {"model": 1}),
        (hat.optim.AdamW, {"betas": (0.9,)}),
        (hat.optim.AdamW, {"betas": (0.9, math.nan)}),
        (hat.optim.AdamW, {"betas": 0.9}),
        (hat.optim.AdamW, {"eps": -1e-8}),
        (hat.optim.AdamW, {"eps": math.inf}),
        (hat.optim.AdamW, {"amsgrad": "no"}),
        (hat.optim.AdamW, {"decoupled_weight_decay": None}),
    ],
)
def test_options_that_mean_nothing(optimizer, options):
    with refuses(f"{next(iter(options))}: expected"):
        optimizer(learning().task_parameters(), **options)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameters_that_cannot_be_optimized(optimizer):
    model = learning()
    weight = model.heads[0].weight
    for params, message in [
        ([], "params: expected at least one parameter, got none"),
        (iter(()), "params: expected at least one parameter, got none"),
        (weight, "params: expected parameters or parameter groups, got a tensor"),
        ("weight", "params: expected parameters or parameter groups, got 'weight'"),
        (None, "params: expected parameters or parameter groups, got None"),
        ([weight, 1], r"params\[1\]: expected a tensor, got 1"),
        ([weight * 2], r"params\[0\]: expected a leaf of the graph"),
        ([torch.ones(2, dtype=torch.int64)], r"params\[0\]: expected a floating dtype, got torch.int64"),
        ([weight, weight], r"params\[1\]: expected every parameter once"),
        ([{"params": [weight]}, {"params": [weight]}], r"params\[0\]: expected every parameter once"),
        ([{"params": [weight]}, weight], r"params\[1\]: expected a parameter group"),
        ([{"parameters": [weight]}], r"params\[0\]: expected parameters under 'params'"),
        ([{"params": {weight}}], r"params\[0\]\['params'\]: expected a list"),
    ]:
        with refuses(message):
            optimizer(params, model=model)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameters_of_another_model_are_refused_and_those_of_none_are_moved(optimizer):
    model, other, own = learning(), learning(), nn.Linear(4, 1)
    for params in ([*model.task_parameters(), *other.task_parameters()], other.task_parameters()):
        with refuses("params: expected parameters of one model, got .* of another HATModel"):
            optimizer(params, model=model)
    both = torch.optim.SGD([*model.task_parameters(), *other.task_parameters()], lr=0.1)
    with refuses("optimizer: expected parameters of one model, got .* of another HATModel"):
        hat.guard(both, model)
    made = optimizer([*model.task_parameters(), *own.parameters()], lr=0.1, model=model)
    with refuses("params: expected parameters of one model"):
        made.add_param_group({"params": list(other.body.parameters())})
    before = own.weight.detach().clone()
    own(torch.ones(3, 4)).sum().backward()
    made.step()
    assert not torch.equal(own.weight, before)


def test_an_optimizer_in_the_place_of_its_class_and_other_things_that_are_no_optimizer():
    model = learning()
    for value in ("sgd", torch.optim.SGD, None, model, hat.optim.SGD):
        with refuses("optimizer: expected an optimizer"):
            hat.guard(value, model)
    optimizer = torch.optim.SGD(model.task_parameters(), lr=0.1)
    for options in ({"model": model.body}, {"max_norm": "1"}, {"max_norm": math.nan}, {"max_norm": 0}):
        with refuses(f"{next(iter(options))}: expected"):
            hat.guard(optimizer, **{"model": model, **options})
    with refuses("optimizer: expected an optimizer, got the class SGD"):
        hat.TrainStep(model, hat.optim.SGD)


@pytest.mark.parametrize("state", [None, {}, [], {"state": {}, "param_groups": [1]}, {"state": 1, "param_groups": []}])
def test_a_state_that_is_none(state):
    optimizer = hat.optim.SGD(learning().task_parameters())
    with refuses("state_dict: expected"):
        optimizer.load_state_dict(state)


def test_a_state_of_other_groups():
    model = learning()
    optimizer, other = (
        hat.optim.SGD(model.task_parameters()),
        hat.optim.SGD(list(model.task_parameters())[1:], model=model),
    )
    with refuses("state_dict: expected groups of"):
        optimizer.load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "cross_entropy"},
        {"lamb": math.inf},
        {"lamb": True},
        {"graph": "yes"},
        {"compile": 1},
        {"scaler": 2.0},
        {"autocast": "bfloat16"},
    ],
)
def test_options_of_a_step(options):
    model = learning()
    with refuses(f"{next(iter(options))}: expected"):
        hat.TrainStep(model, hat.optim.SGD(model.task_parameters()), **options)


def test_a_loss_that_does_not_take_what_it_gets():
    model = learning()
    optimizer = hat.optim.SGD(model.task_parameters())
    before = [p.detach().clone() for p in model.parameters()]
    x, y = torch.ones(3, 4), torch.tensor([0, 1, 0])
    for loss, target, message in [
        (
            nn.functional.cross_entropy,
            torch.tensor([0, 9, 0]),
            r"loss: expected a function of logits \(3, 2\) and a tensor",
        ),
        (nn.functional.cross_entropy, torch.ones(3), r"loss: expected a function of logits \(3, 2\) and a tensor"),
        (lambda logits, y: None, y, "loss: expected a function that returns a 0-d tensor, got one that returns None"),
        (
            lambda logits, y: logits,
            y,
            "loss: expected a function that returns a 0-d tensor, got one that returns a tens",
        ),
    ]:
        with refuses(message):
            hat.TrainStep(model, optimizer, loss)(x, target)
    assert all(map(torch.equal, before, model.parameters()))
