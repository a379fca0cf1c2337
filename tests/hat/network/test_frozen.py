"""What is frozen is what the model knows to be frozen, whatever `requires_grad` says."""

import copy
import pickle
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from tests.hat.stepping import take_step

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::hat.UnlockedWarning")]

OPTIMIZERS = {
    "hat SGD": lambda parameters, m: hat.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1, model=m),
    "hat AdamW": lambda parameters, m: hat.optim.AdamW(parameters, lr=0.1, weight_decay=0.1, model=m),
    "in backward": lambda parameters, m: hat.optim.SGD(parameters, lr=0.1, in_backward=True, model=m),
    "torch AdamW": lambda parameters, m: hat.guard(torch.optim.AdamW(parameters, lr=0.1), m),
    "torch SGD": lambda parameters, m: hat.guard(torch.optim.SGD(parameters, lr=0.1, momentum=0.9), m),
    "torch Adagrad": lambda parameters, m: hat.guard(torch.optim.Adagrad(parameters, lr=0.1), m),
    "torch LBFGS": lambda parameters, m: hat.guard(torch.optim.LBFGS(parameters, lr=0.1), m),
    "torch Adafactor": lambda parameters, m: hat.guard(torch.optim.Adafactor(parameters, lr=0.1), m),
}
FLIPS = {
    "the model": lambda m: m.requires_grad_(True),
    "the body": lambda m: m.body.requires_grad_(True),
    "every parameter": lambda m: [setattr(p, "requires_grad", True) for p in m.parameters()],
    "the modes": lambda m: [m.eval().requires_grad_(False), m.requires_grad_(True).train()],
}


class Loose(nn.Module):
    """A parameter and a layer along no gate: frozen when the first task ends."""

    def __init__(self):
        super().__init__()
        self.scale, self.first, self.gated = nn.Parameter(torch.ones(6)), nn.Linear(6, 6), hat.HATLinear(6, 9)

    def forward(self, x):
        return self.gated(self.first(x * self.scale))


def make(loose=True):
    torch.manual_seed(0)
    return hat.HATModel(Loose()) if loose else hat.HATModel(hat.models.mlp(6, (9, 8), dropout=0.0))


def step(model, optimizer, seed=0, decay=0.01):
    """A step whose loss sends gradients to everything, also to finished heads."""
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), torch.arange(5) % 2) + model.penalty()
        if decay:
            loss = loss + decay * sum(p.square().sum() for p in model.parameters())
        loss.backward()
        return loss

    model.anneal(1.0)
    take_step(optimizer, closure)


def finish(model, units=2):
    """End a task that uses this many units of every gate."""
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.fill_(-1)[:units] = 1
    return model.end_task()


def logits(model):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(9))
    return [model.eval()(x, task=task).detach() for task in model.remembered]


# ---------------------------------------------------------------- optimizers


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("loose", [True, False])
def test_flags_do_not_thaw(loose, name, flip):
    model = make(loose)
    model.begin_task(2)
    finish(model)
    before, expected = {p: p.detach().clone() for p in model.frozen_parameters()}, logits(model)
    model.begin_task(2)
    FLIPS[flip](model)
    optimizer = OPTIMIZERS[name](model.parameters(), model)
    trained = copy.deepcopy(model.head.weight)
    for seed in range(3):
        step(model, optimizer, seed, decay=0 if name == "in backward" else 0.01)
    assert not torch.equal(model.head.weight, trained)
    assert all(torch.equal(p, values) for p, values in before.items())
    assert all(map(torch.equal, logits(model), expected))
    model.train()
    model.end_task()
    assert not any(p.requires_grad or p.grad is not None for p in model.frozen_parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_over_all_parameters_made_before_the_first_task_is_flat_and_safe(name):
    model = make()
    model.begin_task(2)
    optimizer = OPTIMIZERS[name](model.parameters(), model)
    step(model, optimizer, decay=0)
    finish(model)
    before, expected = {p: p.detach().clone() for p in model.frozen_parameters()}, logits(model)
    model.begin_task(2)
    model.requires_grad_(True)
    step(model, optimizer, decay=0)
    assert all(torch.equal(p, values) for p, values in before.items())
    assert all(map(torch.equal, logits(model), expected))


def test_frozen_parameters_are_none_of_the_task():
    model = make()
    model.begin_task(2)
    finish(model)
    model.begin_task(2)
    expected = set(model.task_parameters())
    model.requires_grad_(True)
    assert set(model.task_parameters()) == expected


def test_a_broken_number_in_a_thawed_parameter_is_no_business_of_the_task():
    model = make()
    model.begin_task(2)
    finish(model)
    model.begin_task(2)
    model.requires_grad_(True)
    with torch.no_grad():
        model.heads[0].weight[0, 0] = torch.nan
    model.end_task()
    model.begin_task(2)
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"heads\.2\.weight: expected finite"):
        model.end_task()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_the_user_freezes_does_not_move_and_learns_again_when_thawed(name):
    model = make(loose=False)
    model.begin_task(2)
    optimizer = OPTIMIZERS[name](model.task_parameters(), model)
    step(model, optimizer, decay=0)
    weight = model.body.network.linear1.weight
    weight.grad = torch.ones_like(weight)  # left over
    weight.requires_grad_(False)
    before = weight.detach().clone()
    states = {key: copy.deepcopy(value) for key, value in optimizer.state.get(weight, {}).items()}
    x = torch.randn(5, 6)
    for _ in range(2):

        def closure():
            loss = F.cross_entropy(model(x), torch.arange(5) % 2)
            loss.backward()
            return loss

        take_step(optimizer, closure)
    assert torch.equal(weight, before)
    if name not in ("torch LBFGS", "torch Adafactor"):  # the guard restores the weight behind them
        kept = optimizer.state.get(weight, {})
        same = [torch.equal(torch.as_tensor(kept[key]), torch.as_tensor(value)) for key, value in states.items()]
        assert kept.keys() == states.keys()
        assert all(same)
    weight.requires_grad_(True)
    weight.grad = None
    step(model, optimizer, decay=0)
    assert not torch.equal(weight, before)


# ---------------------------------------------------------------- what the library thaws


def frozen_by_user():
    model = make()
    model.body.first.requires_grad_(False)
    model.begin_task(2)
    return model


@pytest.mark.parametrize("flip", [None, *FLIPS])
def test_forgetting_thaws_and_draws_only_what_the_library_has_frozen(flip):
    model = frozen_by_user()
    before = copy.deepcopy(model.body.first.state_dict())
    finish(model)
    assert not model.body.scale.requires_grad
    if flip is not None:
        FLIPS[flip](model)
    hat.forget(model, 0)
    assert model.body.scale.requires_grad
    assert all(p.requires_grad is (flip is not None) for p in model.body.first.parameters())  # as the user has it
    assert all(torch.equal(before[name], p) for name, p in model.body.first.named_parameters())
    assert not model.frozen.parameters


def wrapped(model):
    return nn.ModuleDict({"inside": model})


@pytest.mark.parametrize("wrap", [lambda model: model, wrapped])
def test_a_load_thaws_only_what_the_library_has_frozen(wrap):
    fresh = wrap(make()).state_dict()
    model = frozen_by_user()
    finish(model)
    wrap(model).load_state_dict(fresh)
    assert model.body.scale.requires_grad
    assert not any(p.requires_grad for p in model.body.first.parameters())


@pytest.mark.parametrize("wrap", [lambda model: model, wrapped])
def test_a_load_freezes_what_the_state_has_finished(wrap):
    learned = make()
    learned.begin_task(2)
    finish(learned)
    model = make()
    wrap(model).load_state_dict(wrap(learned).state_dict())
    assert set(map(id, model.frozen_parameters())) == model.frozen.parameters.keys()
    assert not any(p.requires_grad for p in model.frozen_parameters())
    wrap(model).load_state_dict(wrap(learned).state_dict(), assign=True)
    assert set(map(id, model.frozen_parameters())) == model.frozen.parameters.keys()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_the_record(copied):
    model = frozen_by_user()
    finish(model)
    model = copied(model)
    assert set(map(id, model.frozen_parameters())) == model.frozen.parameters.keys()
    hat.forget(model, 0)
    assert model.body.scale.requires_grad
    assert not any(p.requires_grad for p in model.body.first.parameters())


# ---------------------------------------------------------------- a base that came frozen


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter, Hu et al. 2021."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, 9, bias=False), nn.Linear(9, outputs, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def adapted():
    torch.manual_seed(0)
    layers = Adapted(6, 24), nn.ReLU(), Adapted(24, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 2)
    return hat.convert(nn.Sequential(*layers), torch.randn(4, 6))


def learn(model, seed):
    """A task that uses some of the units, drawn at random."""
    model.begin_task(2)
    optimizer = hat.guard(torch.optim.AdamW(model.task_parameters(), 1e-2), model)
    for number in range(3):
        step(model, optimizer, number, decay=0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.copy_(torch.randn(gate.units, generator=generator) - 1)
            gate.embedding[torch.randint(gate.units, (), generator=generator)] = 1  # at least one unit
    return model.end_task()


def base_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if ".base." in name}


def test_a_frozen_base_keeps_its_bits_in_place():
    model = adapted()
    base = base_of(model)
    expected = []
    for task in range(3):
        learn(model, task)
        expected.append(logits(model)[task])
    assert all(torch.equal(base[name], p) for name, p in base_of(model).items())
    assert all(map(torch.equal, logits(model), expected))
    moved = [name for name, gate in model.gates.items() if not gate.keeps_places]
    assert moved
    assert not all(torch.equal(model.gates[name].origin.sort()[0], model.gates[name].origin) for name in moved)
    model.requires_grad_(True)  # a flag says nothing about where the base came from
    learn(model, 3)
    fresh = adapted()
    adapters = {name: value for name, value in model.state_dict().items() if ".base." not in name}
    fresh.load_state_dict({**fresh.state_dict(), **base, **adapters})
    assert all(map(torch.equal, logits(fresh)[:3], expected))


def test_forgetting_keeps_a_frozen_base_in_place():
    model = adapted()
    base = base_of(model)
    for task in range(2):
        learn(model, task)
    expected = logits(model)[1]
    hat.forget(model, 0)
    assert torch.equal(logits(model)[0], expected)
    hat.forget(model, 1)
    assert all(torch.equal(base[name], p) for name, p in base_of(model).items())


def test_a_frozen_base_does_not_grow():
    model = adapted()
    learn(model, 0)
    base, expected = base_of(model), logits(model)
    kept = next(name for name, gate in model.gates.items() if gate.keeps_places)
    grows = next(name for name, gate in model.gates.items() if not gate.keeps_places)
    with pytest.raises(ValueError, match=f"{kept}: cannot grow; a parameter along it came frozen"):
        hat.grow(model, {kept: 2})
    with pytest.warns(hat.CapacityWarning, match=f"cannot grow: {kept}"):
        joined = hat.grow(model, 2)
    assert grows in joined
    assert kept not in joined
    assert all(torch.equal(base[name], p) for name, p in base_of(model).items())
    for got, before in zip(logits(model), expected, strict=True):
        torch.testing.assert_close(got, before)


def test_what_is_frozen_before_the_first_task_keeps_its_place_and_later_flags_change_nothing():
    model = make(loose=False)
    model.body.network.linear1.requires_grad_(False)
    model.begin_task(2)
    model.requires_grad_(True)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.copy_(torch.arange(gate.units) % 2 * 2.0 - 1)
    before = model.body.network.linear1.weight.detach().clone()
    model.end_task()
    first, second = model.gates.values()
    assert first.origin.tolist() == list(range(9))
    assert second.origin.tolist() != list(range(8))
    assert torch.equal(before, model.body.network.linear1.weight)


def test_a_locked_network_keeps_every_bit_of_its_weights():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 2))
    model = hat.convert(network, torch.randn(4, 6), pretrained="locked")
    before = copy.deepcopy([network[0], network[2]])
    for task in range(3):
        learn(model, task)
        if task == 0:
            assert set(hat.grow(model, 3)) == set(model.gates)
    hat.forget(model, 1)
    for now, then in zip((network[0], network[2]), before, strict=True):
        rows, *columns = then.weight.shape
        assert torch.equal(now.weight[:rows, : columns[0]], then.weight)
        assert torch.equal(now.bias[:rows], then.bias)


# ---------------------------------------------------------------- many tasks


def calls(function):
    """How many Python functions run."""
    counted = []
    sys.setprofile(lambda _, event, __: counted.append(event) if event == "call" else None)
    try:
        function()
    finally:
        sys.setprofile(None)
    return len(counted)


@pytest.mark.parametrize("name", ["hat SGD", "hat AdamW", "torch AdamW", "torch Adafactor"])
@pytest.mark.parametrize("kept", [True, False])
def test_python_calls_do_not_grow_with_the_tasks(name, kept):
    model, optimizer, counts = make(loose=False), None, []
    for task in range(40):
        begin = calls(lambda: model.begin_task(2))
        if kept and optimizer is not None:
            optimizer.add_param_group({"params": list(model.head.parameters())})
        else:
            optimizer = OPTIMIZERS[name](model.task_parameters(), model)
        step(model, optimizer, decay=0)
        stepping = calls(lambda: step(model, optimizer, decay=0))  # noqa: B023
        finish_calls = calls(lambda: finish(model, units=7))
        if task in (4, 39):
            counts.append((begin, stepping, finish_calls, len(optimizer.param_groups)))
    assert all(late <= 1.05 * early for early, late in zip(*counts, strict=True)), counts


def test_finished_heads_stay_in_evaluation_mode():
    model = make()
    model.begin_task(2)
    assert model.head.training
    assert model.body.training
    finish(model)
    model.begin_task(2)
    assert not model.heads[0].training
    assert model.heads[1].training
    assert model.training
    assert not any(module.training for module in model.eval().modules())
    with pytest.raises(ValueError, match="mode: expected a bool"):
        model.train(1)
