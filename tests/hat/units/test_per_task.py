"""Per-task tensors: every task has its own values."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.units.buffers import foreign
from hat.units.locks import locks, unlocked
from hat.units.state import LEARNING, OPEN, PLAIN, Finished, PerSample, State
from tests.hat.stepping import end, take_step

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]


class Counting(hat.PerTask):
    """A module with a learned per-task row and a per-task running sum."""

    def __init__(self, gate=None):
        super().__init__()
        self._keep("weight", torch.linspace(1, 2, 8), learned=True)
        self._keep("total", torch.zeros(8), learned=False)
        self._keep("nothing", None, learned=True)
        self.gate = gate
        if gate is not None:
            gate.attach(self, "weight", 0)
            gate.attach(self, "total", 0)

    def forward(self, x):
        if self.training and self.is_learning:
            self.total += x.detach().sum(0)
        x = x * self.of_task("weight") + 1e-3 * self.of_task("total")
        return x if self.gate is None else self.gate(x)


def body(attached=False):
    first = hat.HATLinear(5, 8)
    table = hat.PerTaskParameter(torch.linspace(-1, 1, 4))
    return Body(nn.ModuleList([first, Counting(first.gate if attached else None), hat.HATLinear(8, 4), table]))


class Body(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def forward(self, x):
        first, counting, second, table = self.parts
        return second(counting(first(x))) + table()


def make(**options):
    torch.manual_seed(0)
    return hat.HATModel(body(**options), features=4)


OPTIMIZERS = {
    "sgd": lambda p, model: hat.optim.SGD(p, lr=0.2, momentum=0.9, weight_decay=0.1, model=model),
    "in backward": lambda p, model: hat.optim.SGD(p, lr=0.2, weight_decay=0.1, in_backward=True, model=model),
    "adamw": lambda p, model: hat.optim.AdamW(p, lr=0.1, weight_decay=0.1, max_norm=0.5, model=model),
    "guarded": lambda p, model: hat.guard(torch.optim.Adam(p, lr=0.1, weight_decay=0.1), model),
    "guarded whole": lambda p, model: hat.guard(torch.optim.LBFGS(p, lr=0.1, max_iter=2), model),
}


def train(model, optimizer, steps=3):
    for step in range(steps):
        x, y = torch.randn(6, 5), torch.randint(3, (6,))

        model.anneal(step / max(1, steps - 1))

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y) + 0.75 * model.penalty()
            loss.backward()
            return loss

        take_step(optimizer, closure)


def learn(model, tasks, name="sgd"):
    for _ in range(tasks):
        model.begin_task(3)
        train(model, OPTIMIZERS[name](model.task_parameters(), model))
        end(model)


def modules_of(model):
    return model.body.parts[1], model.body.parts[3]


# ---------------------------------------------------------------- the module


def test_each_answer_uses_its_own_values():
    module, state = Counting(), State()
    module.share(state)
    for value in (3.0, 4.0):
        module.begin_task()
        assert torch.equal(module.weight, torch.linspace(1, 2, 8))
        assert not module.total.any()
        with torch.no_grad():
            module.weight.fill_(value)
        module.total.fill_(10 * value)
        module.commit()
    with torch.no_grad():
        module.weight.fill_(5.0)
    assert module.of_task("weight") is module.weight
    for answer, value in ((Finished(0), 3.0), (Finished(1), 4.0), (PLAIN, 5.0)):
        with state.answering(answer):
            assert torch.equal(module.of_task("weight"), torch.full((8,), value))
    with state.answering(PerSample(torch.tensor([1, 0, 1]))):
        assert module.of_task("total").tolist() == [[40.0] * 8, [30.0] * 8, [40.0] * 8]
    with state.answering(OPEN):
        assert torch.equal(module.of_task("weight"), torch.linspace(1, 2, 8))
    for answer in (LEARNING, PLAIN, OPEN, Finished(0), PerSample(torch.tensor([1]))):
        with state.answering(answer):
            assert module.is_learning == (answer in (LEARNING, PLAIN))
            assert module.of_task("nothing") is None


def test_every_task_begins_in_place_from_the_given_values():
    values = torch.randn(3)
    module = hat.PerTaskParameter(values)
    parameter = module.value
    with torch.no_grad():
        parameter.zero_()
    assert module.value_initial.data_ptr() == values.data_ptr()
    module.begin_task()
    assert module.value is parameter
    assert torch.equal(module(), values)


def test_a_frozen_parameter_stays_frozen():
    frozen = hat.PerTaskParameter(nn.Parameter(torch.ones(2), requires_grad=False))
    assert not frozen.value.requires_grad
    assert hat.PerTaskParameter(nn.Parameter(torch.ones(2))).value.requires_grad


def test_moved_lists_all_tensors_of_a_name():
    module = Counting()
    module.commit()
    moved = module.moved("weight")
    assert [(tuple(tensor.shape), shift) for tensor, shift in moved] == [((8,), 0), ((8,), 0), ((1, 8), 1)]
    assert moved[0][0] is module.weight
    assert module.moved("nothing") == []


def test_follows_dtypes_and_copies():
    module = Counting()
    module.commit()
    state = State()
    module.share(state)
    module.half()
    assert {t.dtype for _, t in module.stacks()} == {torch.float16}
    pair = copy.deepcopy(nn.ModuleList([module, state]))
    assert pair[0].state is pair[1]
    pair[0].total += 1
    assert not module.total.any()


# ---------------------------------------------------------------- in a model


def test_a_per_task_parameter_is_neither_locked_nor_shared():
    model = make(attached=True)
    learn(model, 2)
    counting, table = modules_of(model)
    frozen = model.frozen_parameters()
    for parameter in (counting.weight, table.value):
        assert parameter not in locks(model.body)
        assert parameter not in model.blocks()
        assert not any(parameter is p for p in frozen)
        assert parameter.requires_grad
    assert not unlocked(model.body)
    assert not any(owner is counting for owner, _, _ in foreign(model.body).values())
    assert counting.state is table.state is model.state


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_is_forgotten(name, attached):
    model, probes = make(attached=attached), hat.Probes()
    counting, table = modules_of(model)
    for task in range(3):
        model.begin_task(3)
        assert torch.equal(table.value, table.value_initial)
        assert not counting.total.any()
        train(model, OPTIMIZERS[name](model.task_parameters(), model))
        assert not torch.equal(table.value, table.value_initial)
        assert not torch.equal(counting.weight, counting.weight_initial)
        assert counting.total.any()
        assert not probes.tasks or hat.verify(model, probes).exact
        end(model)
        probes.add(model, task, torch.randn(6, 5))
        assert hat.verify(model, probes).exact
    assert table.value_tasks.shape == (3, 4)
    assert torch.equal(counting.total_tasks[2], counting.total)


@pytest.mark.parametrize("name", ["sgd", "adamw", "guarded"])
def test_an_optimizer_that_is_kept_across_tasks(name):
    model, probes, optimizer = make(), hat.Probes(), None
    for task in range(3):
        model.begin_task(3)
        if optimizer is None:
            optimizer = OPTIMIZERS[name](model.task_parameters(), model)
        else:
            optimizer.add_param_group({"params": list(model.head.parameters())})
        train(model, optimizer)
        end(model)
        probes.add(model, task, torch.randn(6, 5))
        assert hat.verify(model, probes).exact


def test_verify_names_what_moved():
    model, probes = make(attached=True), hat.Probes()
    learn(model, 1)
    probes.add(model, 0, torch.randn(6, 5))
    learn(model, 1)
    probes.add(model, 1, torch.randn(6, 5))
    counting, table = modules_of(model)
    before = table.value_tasks.clone()
    table.value_tasks[1, 2] += 1
    result = hat.verify(model, probes)
    assert (result.moved, result.moved_by) == ("body.parts.3.value_tasks", 1.0)
    assert result.drift[1] > 0 == result.drift[0]
    table.value_tasks.copy_(before)
    masks = model.body.parts[0].gate.masks
    counting.total_tasks[0, masks[0].argmin()] += 1  # the unit is off, so its value does not matter
    assert masks[0].min() == 0
    assert hat.verify(model, probes).exact
    counting.total_tasks[0, masks[0].argmax()] += 1
    assert hat.verify(model, probes).moved == "body.parts.1.total_tasks"


def test_a_statistic_that_is_not_finite_is_not_committed():
    model = make()
    model.begin_task(3)
    counting, _ = modules_of(model)
    counting.total[3] = float("nan")
    with pytest.raises(ValueError, match=r"body\.parts\.1\.total: expected finite values"):
        model.end_task()
    assert counting.total_tasks.shape[0] == 0
    assert model.learning


def test_loads_any_number_of_tasks():
    model, x = make(), torch.randn(6, 5)
    learn(model, 2)
    fresh = make()
    fresh.load_state_dict(model.state_dict())
    more = make()
    learn(more, 3, "adamw")
    more.load_state_dict(model.state_dict())
    twin = copy.deepcopy(model)
    for other in (fresh, more, twin):
        assert other.tasks == 2
        for task in range(2):
            assert torch.equal(other.eval()(x, task=task), model(x, task=task))
    learn(twin, 1)
    assert modules_of(model)[0].weight_tasks.shape[0] == 2
    assert modules_of(twin)[0].weight_tasks.shape[0] == 3


def test_a_load_that_fails_changes_nothing():
    model, other = make(), make()
    learn(model, 2)
    learn(other, 1)
    state = other.state_dict()
    del state["body.parts.2.bias"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_step_costs_no_more_with_every_task():
    """The tensors of a step are as many after many tasks as after one."""
    model = make()
    learn(model, 1)
    model.begin_task(3)
    before = [len(list(model.body.parameters())), len(list(model.body.buffers()))]
    model.end_task()
    learn(model, 5)
    model.begin_task(3)
    assert [len(list(model.body.parameters())), len(list(model.body.buffers()))] == before


def test_the_plain_network_shares_what_is_trained():
    torch.manual_seed(0)
    model = hat.training.plain.PlainModel(body(), features=4)
    counting, table = modules_of(model)
    for _ in range(2):
        model.begin_task(3)
        before = [table.value.detach().clone(), counting.total.clone()]
        train(model, hat.optim.SGD(model.task_parameters(), lr=0.2))
        assert not torch.equal(table.value, before[0])
        assert not torch.equal(counting.total, before[1])
        model.end_task()
    # In the plain network, the second task started from the values of the first.
    assert not torch.equal(before[0], table.value_initial)
    assert before[1].any()
