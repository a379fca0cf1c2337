"""Parameter groups of optimizers that are kept over many tasks, and the copies of these optimizers."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR

import hat

pytestmark = pytest.mark.usefixtures("one_thread")

X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(7)), torch.arange(8) % 2

GUARDED = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "fused Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, fused=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
}
OWN = {
    "hat SGD": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.1, momentum=0.9),
    "hat AdamW": lambda m: hat.optim.AdamW(m.task_parameters(), lr=0.1),
}
MAKES = {
    **{name: lambda m, make=make: hat.guard(make(m.task_parameters()), m) for name, make in GUARDED.items()},
    **OWN,
}


def begun():
    torch.manual_seed(0)
    model = hat.HATModel(hat.models.mlp(6, (9, 8), dropout=0.0, input_dropout=0.0))
    model.begin_task(2)
    return model


def step(model, optimizer):
    model.train().anneal(1.0)
    optimizer.zero_grad()
    (F.cross_entropy(model(X), Y) + model.penalty()).backward()
    optimizer.step()


def finish(model, units=2):
    """End a task that uses this many units of every gate."""
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.fill_(-1)[:units] = 1
    model.end_task()


def next_task(model, optimizer, **options):
    model.begin_task(2)
    optimizer.add_param_group({"params": list(model.head.parameters()), **options})


# ---------------------------------------------------------------- copies, when weights are wholly locked


def deep(model, optimizer):
    return copy.deepcopy((model, optimizer))


def loaded(model, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return model, optimizer


def saved(model, optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    return model, optimizer


@pytest.mark.filterwarnings("ignore::hat.CapacityWarning")
@pytest.mark.parametrize("way", [deep, loaded, saved])
@pytest.mark.parametrize("name", MAKES)
def test_an_optimizer_of_wholly_locked_weights_is_copied_and_loaded(name, way):
    model = begun()
    optimizer = MAKES[name](model)
    step(model, optimizer)
    finish(model, units=9)
    model, optimizer = way(model, optimizer)
    next_task(model, optimizer)
    head = model.head.weight.detach().clone()
    step(model, optimizer)
    model, optimizer = way(model, optimizer)
    one, other = copy.deepcopy((model, optimizer)), (model, optimizer)
    step(*one)
    step(*other)
    assert not torch.equal(model.head.weight, head)
    assert all(map(torch.equal, one[0].parameters(), other[0].parameters()))
    model.end_task()
    hat.forget(model, 0)  # the weights may move again
    next_task(model, optimizer)
    weight = model.body.network.linear1.weight
    before = weight.detach().clone()
    step(model, optimizer)
    assert not torch.equal(weight, before)


def test_a_guarded_lbfgs_of_wholly_locked_weights_is_copied_and_loaded():
    model = begun()
    optimizer = hat.guard(torch.optim.LBFGS(model.task_parameters(), lr=0.1), model)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y) + model.penalty()
        loss.backward()
        return loss

    optimizer.step(closure)
    finish(model, units=9)
    copied_model, copied = copy.deepcopy((model, optimizer))
    copied.load_state_dict(optimizer.state_dict())
    assert all(map(torch.equal, model.parameters(), copied_model.parameters()))


# ---------------------------------------------------------------- groups that a finished head leaves


@pytest.mark.parametrize("name", MAKES)
def test_groups_do_not_pile_up(name):
    model = begun()
    optimizer = MAKES[name](model)
    counts = []
    for _ in range(4):
        step(model, optimizer)
        finish(model)
        model, optimizer = copy.deepcopy((model, optimizer))  # the copy knows which group is free
        next_task(model, optimizer)
        counts.append(len(optimizer.param_groups))
        assert list(map(id, optimizer.param_groups[-1]["params"])) == list(map(id, model.head.parameters()))
    assert len(set(counts[1:])) == 1
    assert all(group["params"] for group in optimizer.param_groups)


def test_a_group_that_the_user_left_empty_stays_empty():
    model = begun()
    optimizer = hat.optim.SGD([{"params": list(model.task_parameters())}, {"params": [], "lr": 0.5}], model=model)
    finish(model)
    next_task(model, optimizer)
    assert [len(group["params"]) > 0 for group in optimizer.param_groups] == [True, False, True]


def in_two_groups(model, make):
    head = list(model.head.parameters())
    body = [p for p in model.task_parameters() if not any(p is other for other in head)]
    return make([{"params": body}, {"params": head, "lr": 0.02}])


KINDS = {
    "hat": lambda m: in_two_groups(m, lambda groups: hat.optim.SGD(groups, lr=0.1, model=m)),
    "guard": lambda m: in_two_groups(m, lambda groups: hat.guard(torch.optim.SGD(groups, lr=0.1), m)),
}
SCHEDULERS = {
    "LambdaLR": lambda o: LambdaLR(o, [lambda epoch: 1 / (1 + epoch), lambda epoch: 0.5**epoch]),
    "StepLR": lambda o: StepLR(o, 1, 0.5),
    "OneCycleLR": lambda o: OneCycleLR(o, [0.1, 0.02], total_steps=9),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_scheduler_that_is_kept_goes_on_with_the_next_head(kind, scheduler):
    model = begun()
    optimizer = KINDS[kind](model)
    schedule = SCHEDULERS[scheduler](optimizer)
    alone = torch.optim.SGD([{"params": [torch.ones(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.02)], lr=0.1)
    expected = SCHEDULERS[scheduler](alone)
    for _ in range(3):
        step(model, optimizer)
        alone.step()
        schedule.step()
        expected.step()
        finish(model)
        assert schedule.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        next_task(model, optimizer)
        assert [group["lr"] for group in optimizer.param_groups] == expected.get_last_lr()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_scheduler_of_every_task_starts_from_the_rate_that_was_given(kind, scheduler):
    model = begun()
    optimizer = KINDS[kind](model)
    for _ in range(3):
        schedule = SCHEDULERS[scheduler](optimizer)
        if scheduler != "OneCycleLR":
            assert schedule.base_lrs == [0.1, 0.02 if model.task == 0 else 0.03]
        step(model, optimizer)
        schedule.step()
        finish(model)
        schedule.step()  # after the task: nothing is shifted
        next_task(model, optimizer, lr=0.03)
        assert optimizer.param_groups[1]["lr"] == 0.03
        optimizer.param_groups[0]["lr"] = 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_scheduler_the_group_is_as_new(kind):
    model = begun()
    optimizer = KINDS[kind](model)
    optimizer.param_groups[1]["weight_decay"] = 0.5
    finish(model)
    next_task(model, optimizer)
    assert optimizer.param_groups[1]["lr"] == 0.1
    assert optimizer.param_groups[1]["weight_decay"] == 0.0
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": list(model.head.parameters())})
    assert len(optimizer.param_groups) == 2
