"""Nothing is forgotten: whatever the network, the tasks and the optimizer, old logits keep every bit."""

import contextlib
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import hat
from hat.conversion.api import convert_body
from tests.hat.nets import networks, wired
from tests.hat.stepping import take_step

BATCH = 6
# Tasks that use no unit and full networks are part of what is tested here.
pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]
SLOW_IS_FINE = settings(
    deadline=None, max_examples=16, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

PRECISIONS = [None, torch.bfloat16, torch.float16]

HAT_SGD = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.9, "dampening": 0.5, "max_norm": 0.5},
    {"weight_decay": 0.1, "max_norm": 0.1},
]
TORCH = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.5, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.5, weight_decay=0.1),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3),
}
ONE_GROUP_ONLY = {"LBFGS"}


@dataclasses.dataclass(frozen=True)
class TaskPlan:
    """How a task goes: how many classes and steps, and which units it is made to use."""

    classes: int
    steps: int
    units: str  # "trained", "drawn" at random, "none", "all" (exhausts the capacity), "same" as the task before


plans = st.lists(
    st.builds(
        TaskPlan,
        classes=st.integers(1, 5),
        steps=st.integers(0, 3),
        units=st.sampled_from(["trained", "drawn", "drawn", "drawn", "none", "all", "same"]),
    ),
    min_size=2,
    max_size=4,
)


@dataclasses.dataclass(frozen=True)
class Setup:
    name: str
    options: tuple = ()
    max_norm: float | None = None
    keep: bool = False  # one optimizer for all tasks
    autocast: torch.dtype | None = None


setups = st.one_of(
    st.builds(
        Setup,
        name=st.just("hat"),
        options=st.sampled_from([tuple(o.items()) for o in HAT_SGD]),
        keep=st.booleans(),
        autocast=st.sampled_from(PRECISIONS),
    ),
    st.builds(
        Setup,
        name=st.sampled_from(sorted(TORCH)),
        max_norm=st.sampled_from([None, 0.3, 10_000.0]),
        keep=st.booleans(),
        autocast=st.sampled_from(PRECISIONS),
    ),
)


def make_optimizer(setup, model, parameters):
    if setup.name == "hat":
        return hat.optim.SGD(parameters, lr=0.5, model=model, **dict(setup.options))
    return hat.guard(TORCH[setup.name](parameters), model, max_norm=setup.max_norm)


def optimizer_for(setup, model, optimizer):
    """A new optimizer for each task, or the old optimizer with a group for the new head."""
    if optimizer is None or not setup.keep:
        return make_optimizer(setup, model, model.task_parameters())
    if setup.name not in ONE_GROUP_ONLY:
        optimizer.add_param_group({"params": list(model.head.parameters())})
    return optimizer


def choose_units(model, units, before):
    """Change the embeddings of a task, as training might."""
    with torch.no_grad():
        for gate in model.gates.values():
            embedding = gate.embedding
            if units == "none":
                embedding.copy_(-embedding.abs() - 0.1)
            elif units == "all":
                embedding.copy_(embedding.abs() + 0.1)
            elif units == "same" and gate.tasks:
                embedding.copy_(gate.masks[-1] - 0.5)
            elif units == "drawn":
                embedding.normal_()


def precision(setup):
    return torch.autocast("cpu", dtype=setup.autocast) if setup.autocast else contextlib.nullcontext()


def train_step(model, optimizer, setup, shape, classes, progress):
    x, y = torch.randn(BATCH, *shape), torch.randint(classes, (BATCH,))

    def closure():
        model.anneal(progress)
        with precision(setup):
            loss = F.cross_entropy(model(x).float(), y) + 0.75 * model.penalty()
        optimizer.zero_grad()
        loss.backward()
        return loss

    take_step(optimizer, closure)


def logits(model, task, x, setup):
    model.eval()
    with torch.no_grad(), precision(setup):
        return model(x, task=task)


def run(model, shape, plan, setup, order):
    """Learn the tasks. After each task, all finished tasks must give their first logits, asked in the order `order`."""
    optimizer, embeddings, remembered, probes = None, None, {}, hat.Probes()
    for number, task in enumerate(plan):
        model.begin_task(task.classes)
        optimizer = optimizer_for(setup, model, optimizer)
        if number % 2:
            choose_units(model, task.units, embeddings)
        for step in range(task.steps):
            model.train()
            train_step(model, optimizer, setup, shape, task.classes, step / max(1, task.steps - 1))
            check(model, remembered, probes, setup, order)  # in the middle of a task as well
        choose_units(model, task.units, embeddings)
        embeddings = [e.detach().clone() for e in model.embeddings]
        assert model.end_task() == number
        x = torch.randn(BATCH, *shape)
        remembered[number] = (x, logits(model, number, x, setup))
        assume(bool(remembered[number][1].isfinite().all()))  # a drawn network may learn until its logits overflow
        probes.add(model, number, x)
        check(model, remembered, probes, setup, order)


def check(model, remembered, probes, setup, order):
    training = model.training
    for task in sorted(remembered, key=lambda t: (t * order) % 7):
        x, before = remembered[task]
        now = logits(model, task, x, setup)
        assert torch.equal(now, before), f"task {task} drifted by {(now - before).abs().max():g}"
    model.train(training)
    if remembered:
        result = hat.verify(model, probes)
        assert result.exact, str(result)
        assert model.training == training


@SLOW_IS_FINE
@given(network=networks, plan=plans, setup=setups, order=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_no_bit_of_an_old_task_changes(network, plan, setup, order, seed):
    body, shape, features = network
    torch.manual_seed(seed)
    for parameter in body.parameters():  # hypothesis builds the network under its own seed
        torch.nn.init.normal_(parameter)
    run(hat.HATModel(body, features=features), shape, plan, setup, order)


THREE = [TaskPlan(3, 3, "drawn"), TaskPlan(2, 3, "drawn"), TaskPlan(4, 3, "drawn")]


def deterministic_model(seed=0):
    torch.manual_seed(seed)
    return hat.HATModel(hat.models.mlp(6, (12, 10)))


@pytest.mark.parametrize("autocast", PRECISIONS, ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("keep", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("max_norm", [None, 0.3])
@pytest.mark.parametrize("name", sorted(TORCH))
def test_every_guarded_optimizer(name, max_norm, keep, autocast):
    run(deterministic_model(), (6,), THREE, Setup(name, max_norm=max_norm, keep=keep, autocast=autocast), 1)


@pytest.mark.parametrize("autocast", PRECISIONS, ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("keep", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("options", HAT_SGD)
def test_every_option_of_hat_sgd(options, keep, autocast):
    run(deterministic_model(), (6,), THREE, Setup("hat", tuple(options.items()), keep=keep, autocast=autocast), 3)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_foreach_and_plain_loops(name, foreach):
    model = deterministic_model()
    options = {"momentum": 0.9} if name == "SGD" else {}
    maker = getattr(torch.optim, name)
    probes = hat.Probes()
    for task in range(3):
        model.begin_task(2)
        parameters = model.task_parameters()
        optimizer = hat.guard(maker(parameters, lr=0.1, weight_decay=0.3, foreach=foreach, **options), model)
        for _ in range(3):
            train_step(model, optimizer, Setup(name), (6,), 2, 0.5)
        model.end_task()
        probes.add(model, task, torch.randn(BATCH, 6))
        assert hat.verify(model, probes).exact


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("optimizer", ["hat", "AdamW"])
def test_alexnet_like(optimizer, kernel):
    torch.manual_seed(0)
    body = hat.models.alexnet((kernel, 16, 16), channels=(6, 7, 8), hidden=(11, 9))
    run(hat.HATModel(body), (kernel, 16, 16), THREE, Setup(optimizer, max_norm=None, keep=True), 2)


def test_training_does_move_the_free_weights():
    """The other side of the contract: a lock that holds everything would pass the tests above."""
    model = deterministic_model()
    model.begin_task(3)
    choose_units(model, "drawn", None)
    model.end_task()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.begin_task(2)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.5)
    for _ in range(3):
        train_step(model, optimizer, Setup("hat"), (6,), 2, 0.0)
    for layer, into in (
        (model.body.network.linear1, None),
        (model.body.network.linear2, model.body.network.linear1.gate),
    ):
        used_out = layer.gate.used == 1
        used_in = torch.ones(layer.weight.shape[1], dtype=torch.bool) if into is None else into.used == 1
        locked = used_out[:, None] & used_in
        name = next(n for n, p in model.named_parameters() if p is layer.weight)
        moved = layer.weight != before[name]
        assert not moved[locked].any()
        assert moved[~locked].any()
        bias = layer.bias != before[name.replace("weight", "bias")]
        assert not bias[used_out].any()
        assert bias[~used_out].any()


# ---------------------------------------------------------------- without the guard it does drift


def drift_without_guard(make):
    """Learn a task, then train another with an optimizer that knows of no lock."""
    model, probes = deterministic_model(), hat.Probes()
    model.begin_task(3)
    optimizer = make(model.task_parameters())
    for _ in range(3):
        train_step(model, optimizer, Setup("hat"), (6,), 3, 0.5)
    choose_units(model, "all", None)
    with torch.no_grad():  # half of the units, so that the second task has some
        for embedding in model.embeddings:
            embedding[1::2] *= -1
    model.end_task()
    probes.add(model, 0, torch.randn(BATCH, 6))
    assert hat.verify(model, probes).exact
    model.begin_task(2)
    optimizer.add_param_group({"params": list(model.head.parameters())})
    for _ in range(3):
        train_step(model, optimizer, Setup("hat"), (6,), 2, 0.5)
    return model, probes, hat.verify(model, probes)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    ],
    ids=["AdamW", "SGD momentum", "SGD weight decay"],
)
def test_unguarded_optimizers_drift_and_verify_says_what_moved(make):
    model, _, result = drift_without_guard(make)
    assert not result.exact
    assert result.largest > 0
    assert result.drift[0] == result.largest
    first = next(name for name, p in model.named_parameters() if p is model.body.network.linear1.weight)
    assert result.moved == first
    assert result.moved_by > 0
    assert first in str(result)


def test_a_gradient_multiplied_by_the_rate_is_not_enough():
    """As other libraries do: set the locked gradients to zero, and leave the rest to an optimizer with momentum."""
    model, probes = deterministic_model(), hat.Probes()
    model.begin_task(3)
    optimizer = torch.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        train_step(model, optimizer, Setup("hat"), (6,), 3, 0.5)
    choose_units(model, "all", None)
    model.end_task()
    probes.add(model, 0, torch.randn(BATCH, 6))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert not hat.verify(model, probes).exact
    assert hat.verify(model, probes).moved is not None


def test_verify_names_a_single_weight_that_moved():
    model = deterministic_model()
    model.begin_task(3)
    choose_units(model, "all", None)
    model.end_task()
    probes = hat.Probes()
    probes.add(model, 0, torch.randn(BATCH, 6))
    before = model.body.network.linear2.weight.detach().clone()
    with torch.no_grad():
        model.body.network.linear2.weight[2, 5] += 0.25
    result = hat.verify(model, probes)
    assert result.moved == next(n for n, p in model.named_parameters() if p is model.body.network.linear2.weight)
    assert result.moved_by == (model.body.network.linear2.weight - before).abs().max().item()
    with torch.no_grad():
        model.body.network.linear2.weight[2, 5] = torch.nan
    result = hat.verify(model, probes)
    assert not result.exact
    assert result.drift[0] == torch.inf


def test_verify_without_a_probe_and_of_an_unfinished_task():
    model = deterministic_model()
    with pytest.raises(ValueError, match="probes: expected at least one, got none"):
        hat.verify(model, hat.Probes())
    model.begin_task(2)
    with pytest.raises(ValueError, match="task: expected finished tasks, of which there are none, got 0"):
        hat.Probes().add(model, 0, torch.randn(BATCH, 6))


# ---------------------------------------------------------------- special tasks


def test_a_task_that_uses_no_unit_and_one_that_takes_everything():
    plan = [TaskPlan(2, 2, "none"), TaskPlan(3, 2, "all"), TaskPlan(1, 2, "drawn"), TaskPlan(5, 2, "same")]
    run(deterministic_model(), (6,), plan, Setup("AdamW", keep=True), 1)


def test_two_tasks_with_the_same_units():
    model = deterministic_model()
    plan = [TaskPlan(3, 3, "drawn"), TaskPlan(3, 0, "same"), TaskPlan(2, 3, "drawn")]
    run(model, (6,), plan, Setup("hat", (("momentum", 0.9),), keep=True), 1)
    for gate in model.gates.values():
        assert torch.equal(gate.masks[0], gate.masks[1])


DIVERGING = {
    "hat.optim.SGD": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.1),
    "hat.optim.SGD, momentum": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.1, momentum=0.9, max_norm=1.0),
    "AdamW": lambda m: hat.guard(torch.optim.AdamW(m.task_parameters()), m),
    "SGD, max_norm": lambda m: hat.guard(torch.optim.SGD(m.task_parameters(), lr=0.1), m, max_norm=1.0),
    "LBFGS": lambda m: hat.guard(torch.optim.LBFGS(m.task_parameters(), max_iter=2), m),
}


def after_divergence(make, x, steps=1):
    """Train a second task on inputs of x, which no network survives; the first task's logits before and after."""
    model = deterministic_model()
    model.begin_task(3)
    choose_units(model, "drawn", None)
    model.end_task()
    inputs = torch.randn(BATCH, 6)
    before = logits(model, 0, inputs, Setup("hat"))
    model.begin_task(2)
    model.anneal(0.0)
    optimizer = make(model)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.full((BATCH, 6), x)).sum() + model.penalty()
        loss.backward()
        return loss

    for _ in range(steps):
        take_step(optimizer, closure)
    return before, logits(model, 0, inputs, Setup("hat"))


@pytest.mark.parametrize("name", DIVERGING)
def test_a_diverged_task_takes_no_old_one_with_it(name):
    """A gradient of NaN or inf may ruin the task that is being learned, not the finished ones.

    A weight from a free unit to a used one may move; an old task gives it an input of exactly 0, but 0 * NaN is NaN.
    """
    before, after = after_divergence(DIVERGING[name], torch.inf)
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: hat.optim.SGD(m.task_parameters(), lr=1e30),
        lambda m: hat.optim.SGD(m.task_parameters(), lr=1e30, momentum=0.9),
        lambda m: hat.guard(torch.optim.SGD(m.task_parameters(), lr=1e30), m),
    ],
    ids=["hat.optim.SGD", "momentum", "guarded SGD"],
)
def test_an_update_that_overflows_takes_no_old_task_with_it(make):
    """The gradient is finite, but lr times the gradient, or the new weight, is not."""
    before, after = after_divergence(make, 1e12, steps=3)
    assert torch.equal(before, after)


WIRINGS = {
    "linear over the positions of a convolution": (lambda: (nn.Conv1d(1, 4, 1), nn.ReLU(), nn.Linear(4, 5)), (1, 4)),
    "tokens, then a flatten: unit-minor": (
        lambda: (nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6, 5)),
        (6, 3),
    ),
    "a pool over the units of a linear layer": (
        lambda: (nn.Linear(3, 8), nn.ReLU(), nn.AvgPool1d(3, 1, 1), nn.Linear(8, 5)),
        (3,),
    ),
    "a convolution over tokens": (lambda: (nn.Linear(3, 4), nn.ReLU(), nn.Conv1d(4, 5, 1)), (4, 3)),
    "a flatten from the second dimension on": (
        lambda: (nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(2), nn.Flatten(), nn.Linear(4 * 9, 5)),
        (1, 3, 3),
    ),
    "a convolution, an activation, a dropout and a pool": (
        lambda: (nn.Conv2d(1, 4, 2), nn.Tanh(), nn.Dropout(0.1), nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(4 * 4, 5)),
        (1, 4, 4),
    ),
}


@pytest.mark.parametrize("seed", [1, 2, 4])
@pytest.mark.parametrize("name", WIRINGS)
def test_nothing_forgets_however_units_lie_in_the_next_layer(name, seed):
    """If the next layer does not read the units one by one, a lock must not depend on them."""
    make, shape = WIRINGS[name]
    torch.manual_seed(seed)
    body = convert_body(nn.Sequential(*make(), nn.ReLU(), nn.Flatten()), torch.randn(2, *shape), head=None)
    run(hat.HATModel(body), shape, [TaskPlan(3, 3, "drawn")] * 4, Setup("AdamW"), 1)


def test_loose_parameters_are_frozen_after_the_first_task():
    for setup in (Setup("AdamW", keep=True), Setup("hat", (("momentum", 0.9),), keep=True)):
        torch.manual_seed(1)
        with pytest.warns(hat.UnlockedWarning, match=r"1\.weight, 1\.bias"):
            model = hat.HATModel(wired(hat.HATLinear(6, 8), nn.LayerNorm(8), hat.HATLinear(8, 7)))
        start = model.body[1].weight.detach().clone()
        run(model, (6,), THREE, setup, 1)
        assert not torch.equal(model.body[1].weight, start)  # the first task did train it


def test_a_loose_scalar_is_frozen_too():
    """A learned temperature: 0-d, along no gate."""

    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.temperature = hat.HATLinear(6, 8), nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.layer(x) * self.temperature

    for setup in (Setup("AdamW", keep=True), Setup("hat", (("momentum", 0.9),), keep=True)):
        with pytest.warns(hat.UnlockedWarning, match="temperature"):
            model = hat.HATModel(Tempered())
        run(model, (6,), THREE, setup, 1)
