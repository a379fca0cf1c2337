"""A forgotten task leaves nothing behind, and the other tasks lose nothing."""

import contextlib
import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.network.heads import ForgottenHead
from hat.network.reading import stacks
from hat.training import PlainModel
from hat_kernels.lock import rate
from tests.hat.conversion import checks
from tests.hat.conversion.zoo import NETWORKS
from tests.hat.nets import wired
from tests.hat.stepping import take_step
from tests.soak.actions.interrupted import ctrl_c_after


def mlp(**config):
    body = wired(hat.HATLinear(6, 9), hat.HATLinear(9, 8, activation="gelu"), hat.HATLinear(8, 7))
    return hat.HATModel(body, config=hat.GateConfig(**config)), torch.randn(8, 6)


def convnet(**config):
    body = wired(
        hat.HATConv2d(2, 6, 3, activation="identity"),
        hat.HATBatchNorm2d(6, activation="relu"),
        hat.HATConv2d(6, 4, 2),
        nn.Flatten(),
        hat.HATLinear(16, 5),
    )
    return hat.HATModel(body, config=hat.GateConfig(**config)), torch.randn(8, 2, 5, 5)


def loose(**config):
    """With a parameter and a buffer along no gate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hat.UnlockedWarning)
        body = nn.Sequential(hat.HATLinear(6, 9), nn.Linear(9, 4), Counter())
        return hat.HATModel(body, features=4, config=hat.GateConfig(**config)), torch.randn(8, 6)


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def reset_parameters(self):
        self.calls.zero_()

    def forward(self, x):
        if self.training:
            self.calls.add_(1)
        return x


def converted(name):
    def make(**config):
        module, example = NETWORKS[name]()
        model = checks.convert(module, example, head=None, config=hat.GateConfig(**config))
        return model, example[0] if len(example) == 1 else example

    return make


KINDS = {
    "mlp": mlp,
    "convnet": convnet,
    **{name: converted(name) for name in ("concatenation", "resnet", "relative_positions")},
}
OPTIMIZERS = {
    "SGD": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda m: hat.optim.AdamW(m.task_parameters(), lr=0.01),
    "torch AdamW": lambda m: hat.guard(torch.optim.AdamW(m.task_parameters(), lr=0.01), m),
    "torch LBFGS": lambda m: hat.guard(torch.optim.LBFGS(m.task_parameters(), lr=0.01, max_iter=2), m),
}


def make(kind, seed=0, **config):
    torch.manual_seed(seed)
    return KINDS[kind](**config)


def learn(model, x, *, data=0, units=None, share=0.4, classes=3, make_optimizer=OPTIMIZERS["SGD"]):
    """A few steps on random labels; which units the task uses is drawn from `units`, by default found in training."""
    torch.manual_seed(100 + model.tasks)  # what comes before is no part of the experiment
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hat.CapacityWarning)
        task = model.begin_task(classes)
    generator = torch.Generator().manual_seed(data)
    y = torch.randint(classes, (len(x),), generator=generator)
    x = x + torch.randn(x.shape, generator=generator, dtype=x.dtype)
    optimizer = make_optimizer(model)

    def closure():
        logits = model(x).flatten(1)
        loss = F.cross_entropy(logits, y % logits.shape[1]) + 0.75 * model.penalty()
        optimizer.zero_grad()
        loss.backward()
        return loss

    for step in range(3):
        model.train().anneal(step / 2)
        take_step(optimizer, closure)
    model.anneal(0.2 * data)  # where an early stop leaves it
    if units is not None:
        checks.draw_units(model, units, share)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hat.CapacityWarning)
        model.end_task()
    return task


def answers(model, x):
    with torch.no_grad():
        return {task: model.eval()(x, task=task) for task in model.remembered}


def same_state(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert torch.equal(values, other[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["binary", "published"])
def test_the_other_tasks_keep_every_bit(kind, mode):
    model, x = make(kind, mask_mode=mode)
    for task in range(3):
        learn(model, x, units=task)
    before = answers(model, x)
    masks = {name: gate.masks.clone() for name, gate in model.gates.items()}
    hat.forget(model, 1)
    after = answers(model, x)
    assert after.keys() == {0, 2}
    assert all(torch.equal(after[task], before[task]) for task in after)
    for name, gate in model.gates.items():
        assert not gate.masks[1].any()
        assert torch.equal(gate.masks[[0, 2]].sum(1), masks[name][[0, 2]].sum(1))
        assert torch.equal(gate.used, gate.masks.amax(0))
        assert torch.equal(gate.free, 1 - gate.used)


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_tasks_use_no_element_that_was_drawn_anew(kind):
    model, x = make(kind)
    for task in range(3):
        learn(model, x, units=task)
    before = answers(model, x)
    hat.forget(model, 1)
    assert checks.poison(model, 5) > 0.1
    after = answers(model, x)
    assert all(torch.equal(after[task], before[task]) for task in before if task != 1)


@pytest.mark.parametrize("kind", [*KINDS, "loose"])
@pytest.mark.parametrize("earlier", [0, 1])
def test_no_bit_of_the_last_task_is_left(kind, earlier, monkeypatch):
    monkeypatch.setitem(KINDS, "loose", loose)
    states, last = [], []
    for data in (1, 2):
        model, x = make(kind)
        for task in range(earlier):
            learn(model, x, units=task)
        learn(model, x, data=data, units=10 + data, share=0.3 * data)
        last.append(copy.deepcopy(model.state_dict()))
        torch.manual_seed(7)
        hat.forget(model, earlier)
        states.append(model.state_dict())
    assert any(not torch.equal(values, last[1][name]) for name, values in last[0].items())
    same_state(*states)


@pytest.mark.parametrize("kind", KINDS)
def test_the_capacity_is_as_if_the_task_had_never_been_learned(kind):
    model, x = make(kind)
    learn(model, x, units=0)
    before = copy.deepcopy(model)
    learn(model, x, units=1)
    hat.forget(model, 1)
    assert model.capacity() == before.capacity()
    for gate, then in zip(model.gates.values(), before.gates.values(), strict=True):
        assert torch.equal(gate.used, then.used)
        assert torch.equal(gate.origin, then.origin)
        assert gate.locked == then.locked
        assert gate.in_order == then.in_order
    now, then = answers(model, x), answers(before, x)
    assert torch.equal(now[0], then[0])


@pytest.mark.parametrize("kind", ["mlp", "convnet", "relative_positions"])
@pytest.mark.parametrize("moving", [True, False])
def test_free_elements_tell_nothing_of_a_task_in_the_middle(kind, moving):
    """Two runs differ in the data of task 1 and, if units keep their places, in the units that task 1 uses."""
    lives = []
    for data in (1, 2):
        model, x = make(kind, locked_first=moving)
        learn(model, x, units=0)
        learn(model, x, data=data, units=1 if moving else data)
        learn(model, x, units=7)
        torch.manual_seed(7)
        hat.forget(model, 1)
        lives.append(model)
    one, other = lives
    for (name, p), (_, q) in zip(one.body.named_parameters(), other.body.named_parameters(), strict=True):
        lock = one.locks().get(p)
        free = torch.ones_like(p) if lock is None else rate(lock, p).expand_as(p)
        assert torch.equal(p[free == 1], q[free == 1]), name
    for now, then in zip(stacks(one), stacks(other), strict=True):
        assert torch.equal(now.read, then.read), now.name
        assert torch.equal(now.values[~now.read], then.values[~now.read]), now.name
    for (name, gate), there in zip(one.gates.items(), other.gates.values(), strict=True):
        assert torch.equal(gate.masks, there.masks), name
        assert torch.equal(gate.origin, there.origin), name
        assert torch.equal(gate.embedding, there.embedding), name
    if one.outputs is not None:
        off = (one.outputs.masks[2] == 0).repeat_interleave(one.features // one.outputs.units)
        assert torch.equal(one.heads[2].weight[:, off], other.heads[2].weight[:, off])
        assert not one.heads[2].weight[:, off].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_start_anew_and_nothing_drifts_after_it(name):
    """One optimizer for all tasks: a state left over for free weights would move them."""
    model, x = make("mlp", locked_first="LBFGS" not in name)  # whose history is dropped where units move
    learn(model, x, units=0)
    model.begin_task(3)
    optimizer = OPTIMIZERS[name](model)

    def step(scale):
        def closure():
            loss = F.cross_entropy(model.train()(x), torch.arange(8) % 3)
            optimizer.zero_grad()
            loss.backward()
            return loss

        model.anneal(scale)
        optimizer.step(closure)

    step(0.5)
    gone = model.head.weight
    model.end_task()
    assert optimizer.state
    hat.forget(model, 1)
    assert not optimizer.state
    assert not gone.any()
    assert all(p.grad is None for p in model.parameters())
    before = answers(model, x)
    probes = hat.Probes()
    probes.add(model, 0, x)
    model.begin_task(3)
    if "LBFGS" not in name:  # which has one group
        optimizer.add_param_group({"params": list(model.head.parameters())})
    for scale in (0.0, 0.5, 1.0):
        step(scale)
    model.end_task()
    assert model.tasks == 3
    assert model.remembered == (0, 2)
    assert torch.equal(answers(model, x)[0], before[0])
    assert hat.verify(model, probes).exact


@pytest.mark.parametrize("kind", ["mlp", "convnet", "concatenation"])
def test_holes_are_filled_first_and_learning_goes_on_without_drift(kind):
    model, x = make(kind)
    learn(model, x, units=0)
    learn(model, x, units=7)
    hat.forget(model, 0)
    holes = {gate: int((gate.used == 0).nonzero()[0]) for gate in model.gates.values()}
    assert all(gate.locked == hole for gate, hole in holes.items())
    assert any(not gate.in_order for gate in holes)
    remembered = answers(model, x)
    for task in (2, 3):
        before = {gate: gate.used.clone() for gate in model.gates.values()}
        learn(model, x, units=20 + task, share=0.3)
        for gate, used in before.items():
            new = (gate.used > used).nonzero().flatten()
            free = (used == 0).nonzero().flatten()
            assert torch.equal(new, free[: len(new)])
        remembered |= {task: answers(model, x)[task]}
        now = answers(model, x)
        assert all(torch.equal(now[t], remembered[t]) for t in now)


def test_without_tasks_the_model_is_as_at_the_beginning():
    model, x = loose()
    fresh = {name: p.requires_grad for name, p in model.named_parameters()}
    learn(model, x, units=0)
    learn(model, x, units=1)
    hat.forget(model, 0)
    frozen = model.body[1].weight.clone()
    assert not model.body[1].weight.requires_grad
    assert model.body[2].calls > 0
    hat.forget(model, 1)
    assert model.forgotten == (0, 1)
    assert model.remembered == ()
    assert model.tasks == 2
    assert {name: p.requires_grad for name, p in model.named_parameters()} == fresh
    assert not torch.equal(model.body[1].weight, frozen)
    assert model.body[2].calls == 0
    assert set(model.capacity().values()) == {0.0}
    assert all(lock is None for lock in model.locks().values())
    assert learn(model, x, units=2) == 2
    assert not model.body[1].weight.requires_grad


def test_in_published_mode_what_is_used_a_little_stays():
    model, x = make("mlp", mask_mode="published", s_max=10.0)
    for _ in range(2):
        learn(model, x)
    before = {p: p.detach().clone() for p in model.locks()}
    hat.forget(model, 1)
    for p, lock in model.locks().items():
        free = rate(lock, p).expand_as(p) == 1
        assert torch.equal(p[~free], before[p][~free])
        assert not (p[free] == before[p][free]).any()


def test_parameters_that_the_user_has_frozen_stay():
    model, x = make("mlp")
    model.body[0].weight.requires_grad_(False)
    before = model.body[0].weight.clone()
    learn(model, x, units=0)
    rows = model.body[0].gate.origin
    hat.forget(model, 0)
    assert torch.equal(model.body[0].weight, before[model.body[0].gate.origin])
    assert len(rows) == 9


def test_a_network_that_came_with_everything_locked_keeps_it():
    module, (example,) = NETWORKS["mlp"]()
    model = checks.convert(module, example, head=None, pretrained="locked")
    before = {name: p.clone() for name, p in model.body.named_parameters() if not name.endswith("embedding")}
    learn(model, example, units=0)
    hat.forget(model, 0)
    now = dict(model.body.named_parameters())
    assert all(torch.equal(now[name], values) for name, values in before.items())


@pytest.mark.parametrize("into", ["fresh", "with all heads", "with other tasks"])
def test_saved_and_loaded(into, tmp_path):
    model, x = make("convnet")
    for task in range(3):
        learn(model, x, units=task, classes=2 + task)
    hat.forget(model, 1)
    assert not any(name.startswith("heads.1.") for name in model.state_dict())
    hat.checkpoint.save(tmp_path / "model.pt", {"model": model.state_dict()})
    again, _ = make("convnet", seed=5)
    for task in range({"fresh": 0, "with all heads": 3, "with other tasks": 4}[into]):
        learn(again, x, units=task, classes=2 + task)
    again.load_state_dict(hat.checkpoint.load(tmp_path / "model.pt")["model"])
    same_state(again.state_dict(), model.state_dict())
    assert again.forgotten == (1,)
    assert again.tasks == 3
    assert again.classes == [("0", "1"), (), ("0", "1", "2", "3")]
    now, then = answers(again, x), answers(model, x)
    assert now.keys() == {0, 2}
    assert all(torch.equal(now[task], then[task]) for task in now)
    assert all(not p.requires_grad for p in again.heads.parameters())
    copied = copy.deepcopy(again)
    same_state(copied.state_dict(), again.state_dict())
    assert copied.forgotten == (1,)


def test_errors():
    model, x = make("mlp")
    for _ in range(2):
        learn(model, x)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TypeError, match=r"^model: expected a hat\.HATModel, got Linear$"):
        hat.forget(nn.Linear(2, 2), 0)
    for task, got in ((True, "bool"), (1.0, "float"), (torch.tensor(1), "Tensor"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"^task: expected an int, got {got}$"):
            hat.forget(model, task)
    for task in (-1, 2):
        with pytest.raises(ValueError, match=f"^task: expected finished tasks, 0 to 1, got {task}$"):
            hat.forget(model, task)
    same_state(model.state_dict(), before)
    hat.forget(model, 1)
    for call in (lambda: hat.forget(model, 1), lambda: model(x, task=1), lambda: hat.Probes().add(model, 1, x)):
        with pytest.raises(ValueError, match=r"^task: expected a task that is not forgotten, got 1$"):
            call()
    assert isinstance(model.heads[1], ForgottenHead)
    assert model.classes[1] == ()
    with pytest.raises(ValueError, match=r"^task: expected a task that is not forgotten"):
        model.heads[1](x)
    model.begin_task(2)
    with pytest.raises(RuntimeError, match=r"^forget: task 2 is still being learned; call end_task\(\) first$"):
        hat.forget(model, 0)


def test_a_model_that_locks_nothing_has_nothing_to_forget():
    model = PlainModel(wired(hat.HATLinear(3, 4)))
    model.begin_task(2)
    model.end_task()
    with pytest.raises(ValueError, match=r"^task: expected 1 masks at every gate, got a gate with 0$"):
        hat.forget(model, 0)


def test_a_module_that_cannot_draw_loses_nothing():
    model, x = make("mlp")
    learn(model, x, units=0)
    before = copy.deepcopy(model.state_dict())

    def fail():
        model.body[1].weight.zero_()
        raise RuntimeError("no")

    model.body[1].reset_parameters = fail
    with pytest.raises(RuntimeError, match=r"^no$"):
        hat.forget(model, 0)
    same_state(model.state_dict(), before)
    assert model.forgotten == ()


def test_summary_and_capacity_skip_a_forgotten_task():
    model, x = make("convnet")
    for task in range(2):
        learn(model, x, units=task)
    hat.forget(model, 0)
    found = hat.summary(model)
    assert found.tasks == 1
    assert found.heads == 1
    assert all(row.tasks == 1 for row in found.rows)
    assert [row.used for row in found.rows] == [int(gate.masks[1].sum()) for gate in model.gates.values()]
    assert "tasks finished" in str(found)


def test_ctrl_c_while_new_values_are_drawn():
    """The modules draw in place. They get their old values back, wherever Ctrl-C comes."""
    torch.manual_seed(0)
    model = hat.HATModel(wired(hat.HATLinear(6, 8), hat.HATLinear(8, 4)))
    model.begin_task(3)
    model.end_task()
    before, calls = copy.deepcopy(model.state_dict()), 1
    while model.remembered:
        with contextlib.suppress(KeyboardInterrupt), ctrl_c_after(calls):
            hat.forget(model, 0)
        if model.remembered:
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), calls
        calls += 1
    assert calls > 20
