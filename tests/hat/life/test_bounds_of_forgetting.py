"""Indirect ways in which a finished task could change: shared axes, buffers, casts, copies, closures."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from tests.hat.nets import use, wired

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(6) % 3


def learn(model, optimizer=None, *, steps=4, x=X):
    """Learn one task; returns probes to verify the task later."""
    model.begin_task(3)
    optimizer = optimizer or hat.optim.SGD(model.task_parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
    for step in range(steps):
        model.anneal(step / max(1, steps - 1))
        loss = F.cross_entropy(model(x), Y) + 0.75 * model.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():  # a third of the units each time, so that tasks meet
        for embedding in model.embeddings:
            embedding.copy_(torch.where(torch.rand(embedding.shape) < 0.34, 1.0, -1.0))
    return model.end_task()


def assert_nothing_is_forgotten(model, *, tasks=3, x=X):
    probes = hat.Probes()
    for _ in range(tasks):
        probes.add(model, learn(model, x=x), x)
        assert hat.verify(model, probes).exact, str(hat.verify(model, probes))


class Sum(nn.Module):
    """c(h + b(h)): the inputs of c are units of two gates."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = hat.HATLinear(8, 12), hat.HATLinear(12, 12), hat.HATLinear(12, 12)
        self.b.connect(self.a.gate)
        self.c.connect(self.a.gate)
        self.c.connect(self.b.gate)

    def forward(self, x):
        h = self.a(x)
        return self.c(h + self.b(h))


def tied():
    a, b, c = hat.HATLinear(8, 12), hat.HATLinear(12, 12), hat.HATLinear(12, 12)
    c.weight = b.weight
    return wired(a, b, c)


def twice():
    layer = hat.HATLinear(12, 12)
    return wired(hat.HATLinear(8, 12), layer, layer)


@pytest.mark.parametrize("make", [Sum, tied, twice])
def test_a_parameter_along_two_gates_moves_where_both_are_free(make):
    assert_nothing_is_forgotten(hat.HATModel(make()))


def test_two_gates_with_different_repeats():
    layer, one, two = hat.HATLinear(6, 4), hat.Gate(3), hat.Gate(6)
    layer.connect(one, repeat=2)
    layer.connect(two)
    use(one, [1, 0, 0])
    use(two, [0, 0, 0, 0, 0, 1])
    body = nn.ModuleList([one, two, layer])
    assert hat.units.locks.locks(body)[layer.weight].columns.tolist() == [0, 0, 1, 1, 1, 0]


def test_inputs_that_are_no_ones_units_are_refused():
    layer = hat.HATLinear(24, 5)
    with pytest.raises(ValueError, match="inputs: expected 12 units x 1, got 24 inputs"):
        layer.connect(hat.Gate(12))
    layer.connect(hat.Gate(12), repeat=2)


class RunningMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean(0), 0.5)
        return x - self.mean


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_buffers_stay_as_the_first_task_leaves_them(scale):
    norm = RunningMean()
    model = hat.HATModel(nn.Sequential(norm, hat.HATLinear(8, 12)))
    probes = hat.Probes()
    probes.add(model, learn(model), X)
    kept = norm.mean.clone()
    assert kept.any()
    learn(model, x=scale * X + 1)
    assert torch.equal(norm.mean, kept)
    assert hat.verify(model, probes).exact


def test_spectral_norm_forgets_nothing():
    layer = hat.HATLinear(8, 12)
    with pytest.warns(hat.UnlockedWarning):
        model = hat.HATModel(wired(nn.utils.spectral_norm(layer)))
    assert_nothing_is_forgotten(model)


def test_a_norm_without_statistics_is_welcome():
    hat.HATModel(wired(hat.HATConv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.Flatten(), hat.HATLinear(16, 4)))
    with pytest.raises(ValueError, match="expected no BatchNorm2d"):
        hat.HATModel(wired(hat.HATConv2d(1, 4, 3), nn.BatchNorm2d(4)))


@pytest.mark.parametrize("make", ["sgd", "guard"])
def test_a_weight_that_float16_cannot_hold_reaches_no_finished_task(make):
    model = hat.HATModel(hat.models.mlp(8, (12, 12), input_dropout=0.0, dropout=0.0))
    task = learn(model)
    with torch.autocast("cpu", torch.float16):
        before = model(X, task=task)
    model.begin_task(3)
    parameters = model.task_parameters()
    optimizer = (
        hat.optim.SGD(parameters, lr=5e8) if make == "sgd" else hat.guard(torch.optim.SGD(parameters, lr=5e8), model)
    )
    model.anneal(0.0)
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()
    assert max(p.abs().max() for p in model.body.parameters()) == torch.finfo(torch.float16).max
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(model.eval()(X, task=task), before)


def test_a_copied_guard_guards_the_copy():
    model = hat.HATModel(hat.models.mlp(8, (12, 12)))
    probes = hat.Probes()
    probes.add(model, learn(model), X)
    model.begin_task(3)
    guarded = hat.guard(torch.optim.Adam(model.task_parameters(), lr=0.1), model)
    copied, optimizer = copy.deepcopy((model, guarded))
    before = [p.clone() for p in model.parameters()]
    for _ in range(3):
        F.cross_entropy(copied(X), Y).backward()
        optimizer.step()
    assert hat.verify(copied, probes).exact
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert not torch.equal(copied.body.network.linear1.weight, model.body.network.linear1.weight)


def test_a_guard_clips_what_a_closure_makes():
    model = hat.HATModel(hat.models.mlp(8, (12,)))
    model.begin_task(3)
    optimizer = hat.guard(torch.optim.SGD(model.task_parameters(), lr=1.0), model, max_norm=1e-6)
    before = model.body.network.linear1.weight.clone()

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    assert torch.isfinite(optimizer.step(closure))
    assert 0 < (model.body.network.linear1.weight - before).abs().max() <= 1e-6


def test_a_second_guard_is_refused():
    model = hat.HATModel(hat.models.mlp(8, (12,)))
    model.begin_task(3)
    optimizer = hat.guard(torch.optim.SGD(model.task_parameters(), lr=1.0), model)
    with pytest.raises(ValueError, match="optimizer: expected an optimizer without a guard"):
        hat.guard(optimizer, model)


def test_a_guard_does_not_decay_the_embeddings():
    model = hat.HATModel(hat.models.mlp(8, (12,)))
    model.begin_task(3)
    optimizer = hat.guard(torch.optim.AdamW(model.task_parameters(), lr=0.1, weight_decay=0.5), model)
    embedding, weight = model.embeddings[0], model.body.network.linear1.weight
    before, decayed = embedding.clone(), weight * 0.95
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(embedding, before)
    assert torch.allclose(weight, decayed)


@pytest.mark.parametrize("make", [hat.optim.SGD, lambda p, lr: hat.guard(torch.optim.Adam(p, lr), p.model)])
def test_a_step_does_not_look_at_finished_heads(monkeypatch, make):
    """The time of a step must not grow with the number of tasks: it was 5 ms at one task and 23 ms at a thousand."""
    model = hat.HATModel(hat.models.mlp(8, (12,)))
    learn(model)
    model.begin_task(3)
    optimizer = make(model.task_parameters(), lr=0.1)
    F.cross_entropy(model(X), Y).backward()
    monkeypatch.setattr(hat.HATModel, "frozen_parameters", None)
    monkeypatch.setattr(model, "parameters", None)
    monkeypatch.setattr(model.heads[0], "parameters", None)
    optimizer.step()


def test_a_weight_that_is_not_finite_is_not_committed():
    model = hat.HATModel(hat.models.mlp(8, (12,)))
    model.begin_task(3)
    with torch.no_grad():
        model.body.network.linear1.weight[2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"body.network.linear1.weight: expected finite values, .* not committed"):
        model.end_task()
    assert model.tasks == 0
    assert model.learning


def test_a_state_that_does_not_fit_loses_nothing():
    model = hat.HATModel(hat.models.mlp(8, (12, 12)))
    learn(model)
    model.begin_task(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = hat.HATModel(hat.models.mlp(8, (12, 12)))
    learn(other)
    state = other.state_dict()
    state["body.network.linear2.weight"] = torch.zeros(3, 3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(state)
    assert (model.tasks, model.learning, len(model.heads)) == (1, True, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("classes", [True, "cat", 3.0, None, 1.5])
def test_classes_of_the_wrong_type(classes):
    with pytest.raises(TypeError, match="classes: expected a number or a sequence of names, got"):
        hat.HATModel(hat.models.mlp(8, (12,))).begin_task(classes)


@pytest.mark.parametrize("classes", [0, [], ["a", "a"]])
def test_classes_out_of_range(classes):
    with pytest.raises(ValueError, match="classes: expected at least one class and no name twice, got"):
        hat.HATModel(hat.models.mlp(8, (12,))).begin_task(classes)


def test_a_number_of_numpy_is_a_number():
    import numpy

    model = hat.HATModel(hat.models.mlp(8, (12,)))
    model.begin_task(numpy.int64(3))
    assert model.classes == [("0", "1", "2")]


def test_features_of_another_width_are_named():
    model = hat.HATModel(wired(hat.HATConv2d(1, 4, 3), nn.Flatten()))
    model.begin_task(2)
    with pytest.raises(ValueError, match="features: expected 4 from the body, got 36"):
        model(torch.zeros(2, 1, 5, 5))


def test_a_pool_of_no_modules_gates_once():
    torch.manual_seed(0)
    one = hat.HATConv2d(1, 4, 3, pool=nn.Sequential())
    other = hat.HATConv2d(1, 4, 3)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 1, 5, 5)
    assert torch.equal(one(x), other(x))


def test_soft_masks_hold_no_gate_below_the_floor():
    model = hat.HATModel(hat.models.mlp(8, (12,)), config=hat.GateConfig(mask_mode="published"))
    model.begin_task(3)
    with torch.no_grad():
        model.embeddings[0].copy_(torch.linspace(-0.3, 0.0, 12))
    with pytest.warns(hat.CapacityWarning, match="uses no unit"):
        model.end_task()
    mask = model.gates["gates.linear1"].masks[0]
    assert (mask == 0).any()
    assert mask[mask > 0].min() >= 2.0**-32


def test_a_probe_keeps_its_own_inputs():
    model = hat.HATModel(hat.models.mlp(8, (12,)))
    task, x, probes = learn(model), X.clone(), hat.Probes()
    probes.add(model, task, x)
    x.zero_()
    assert hat.verify(model, probes).exact


@pytest.mark.parametrize("make", [hat.optim.SGD, lambda p, lr: hat.guard(torch.optim.SGD(p, lr), p.model)])
def test_a_gradient_of_nan_is_said(make):
    model = hat.HATModel(hat.models.mlp(8, (12,)))
    model.begin_task(3)
    optimizer = make(model.task_parameters(), lr=0.1)
    (model(X) * torch.nan).sum().backward()
    with pytest.warns(hat.NonFiniteWarning, match="a gradient holds inf or NaN"):
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())
