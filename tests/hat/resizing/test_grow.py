"""`hat.grow` adds free units to a network; finished tasks do not use them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.resizing import grow
from hat_kernels.lock import rate
from tests.hat.conversion.checks import EPS, convert, draw_per_task, draw_units
from tests.hat.conversion.zoo import NETWORKS, Net
from tests.hat.nets import Attention

FEATURES, CLASSES, BATCH = 5, 3, 4
OPTIMIZERS = {
    "SGD": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.05, momentum=0.9, weight_decay=0.1, max_norm=1.0),
    "AdamW": lambda m: hat.optim.AdamW(m.task_parameters(), lr=0.01, weight_decay=0.5),
    "in backward": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.05, in_backward=True),
    "torch SGD": lambda m: hat.guard(torch.optim.SGD(m.task_parameters(), lr=0.05, momentum=0.9), m),
    "torch Adam": lambda m: hat.guard(torch.optim.Adam(m.task_parameters(), lr=0.01), m),
    "torch Adafactor": lambda m: hat.guard(torch.optim.Adafactor(m.task_parameters(), lr=0.01), m),
}


def mlp(*hidden):
    torch.manual_seed(0)
    return hat.HATModel(hat.models.mlp(FEATURES, hidden=hidden, dropout=0.0, input_dropout=0.0))


def learn(model, optimizer, x, steps=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (BATCH,), generator=generator)
    for step in range(steps):
        model.anneal(step / max(1, steps - 1))
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) + 0.1 * model.penalty()).backward()
        optimizer.step()


def finish(model, x, seed, make=OPTIMIZERS["SGD"]):
    model.begin_task(CLASSES)
    learn(model, make(model), x, seed=seed)
    draw_units(model, seed, 0.5)
    return model.end_task()


@torch.no_grad()
def answers(model, x):
    return [model.eval()(x, task=task) for task in range(model.tasks)]


def same(got, expected):
    for one, other in zip(got, expected, strict=True):
        bound = 256 * torch.finfo(other.dtype).eps * max(1.0, other.abs().max().item())
        torch.testing.assert_close(one, other, rtol=0, atol=bound)


def learned(*hidden):
    model, x = mlp(*hidden), torch.randn(BATCH, FEATURES, generator=torch.Generator().manual_seed(1))
    for task in range(2):
        finish(model, x, task)
    return model, x


# ---------------------------------------------------------------- what joins


def test_all_axes_grow_and_nothing_that_was_there_changes():
    model, x = learned(6, 7)
    before, parameters = copy.deepcopy(model), list(model.body.parameters())
    expected = answers(model, x)
    assert hat.grow(model, 4) == dict.fromkeys(model.gates, 4)
    assert [gate.units for gate in model.gates.values()] == [10, 11]
    same(answers(model, x), expected)
    assert all(now is then for now, then in zip(model.body.parameters(), parameters, strict=True))
    one, two = model.body.network.linear1, model.body.network.linear2
    assert (one.out_features, two.in_features, two.out_features, model.features) == (10, 10, 11, 11)
    assert torch.equal(two.weight[:7, :6], before.body.network.linear2.weight)
    for head, was in zip(model.heads, before.heads, strict=True):
        assert torch.equal(head.weight[:, :7], was.weight)
        assert not head.weight[:, 7:].any()
    for gate, was in zip(model.gates.values(), before.gates.values(), strict=True):
        assert torch.equal(gate.masks[:, : was.units], was.masks)
        assert not gate.masks[:, was.units :].any()
        assert sorted(gate.origin.tolist()) == list(range(gate.units))
        assert gate.locked == was.locked


def test_new_weights_are_drawn_as_the_layer_draws():
    model, _ = learned(6, 200)
    hat.grow(model, {"gates.linear1": 400})
    columns, rows = model.body.network.linear2.weight[:, 6:], model.body.network.linear1.weight[6:]
    for values, fan_in in ((columns, 406), (rows, FEATURES)):
        bound = 1 / math.sqrt(fan_in)
        assert values.abs().max() <= bound
        torch.testing.assert_close(values.std(), torch.tensor(bound / math.sqrt(3)), rtol=0.05, atol=0)


def test_the_trial_of_growth_depends_on_no_random_number(monkeypatch):
    """The trial gives new units weights that are not 0, even if their layer starts with zeros."""
    tried = []
    misfits = grow.misfits
    monkeypatch.setattr(grow, "misfits", lambda *arguments: tried.append(arguments) or misfits(*arguments))
    models = [learned(6, 5)[0] for _ in range(2)]
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: [nn.init.zeros_(p) for p in self.parameters()])
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        hat.grow(model, 2)
    (before, after, counts, _), (_, again, _, _) = tried
    assert (counts > 1).any()
    grown = 0
    old, new, other = (dict(body.named_parameters()) for body in (before, after, again))
    for name in old:
        if new[name].shape != old[name].shape and "embedding" not in name:
            grown += 1
            assert torch.equal(new[name], other[name])
            joined = (
                new[name][len(old[name]) :] if len(new[name]) > len(old[name]) else new[name][:, old[name].shape[1] :]
            )
            assert (joined != 0).all()
            assert len(joined.unique()) == joined.numel()
    assert grown == 4


def test_axes_are_chosen_by_name_and_by_share():
    model, _ = learned(6, 7)
    assert hat.grow(model, {"gates.linear2": 0.5}) == {"gates.linear2": 4}  # half of 7, rounded up
    assert hat.grow(model, 0.1) == {"gates.linear1": 1, "gates.linear2": 2}


def test_capacity_is_there_again():
    model, x = mlp(4, 4), torch.randn(BATCH, FEATURES)
    model.begin_task(CLASSES)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.fill_(1)
    model.end_task()
    assert all(share == 1 for share in model.capacity().values())
    hat.grow(model, 4)
    assert all(share == 0.5 for share in model.capacity().values())
    model.begin_task(CLASSES)  # without the warning that all is used
    learn(model, OPTIMIZERS["SGD"](model), x)
    model.anneal(0.0)  # whatever was drawn, gates are half open
    assert model.penalty() > 0


# ---------------------------------------------------------------- what goes on


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_follow_in_the_middle_of_a_task(name):
    """Optimizer states stay with their weights, states of new weights start at 0, and no finished task drifts."""
    model, x = learned(6, 7)
    model.begin_task(CLASSES)
    optimizer = OPTIMIZERS[name](model)
    learn(model, optimizer, x)
    kept = {p: dict(optimizer.state[p]) for p in (model.body.network.linear2.weight,) if p in optimizer.state}
    hat.grow(model, 3)
    expected = answers(model, x)
    for parameter, before in kept.items():
        for key, value in before.items():
            now = optimizer.state[parameter][key]
            if name != "torch Adafactor" and isinstance(value, torch.Tensor) and value.dim() == 2:
                assert now.shape != value.shape
                assert now.abs().sum() == pytest.approx(value.abs().sum().item(), rel=1e-5)
    model.train()
    learn(model, optimizer, x, steps=4)
    draw_units(model, 7, 0.5)
    model.end_task()
    for now, then in zip(answers(model, x)[:2], expected[:2], strict=True):
        assert torch.equal(now, then)


def test_momentum_stays_with_its_weights_and_is_0_for_what_has_joined():
    model, x = mlp(4, 4).double(), torch.randn(BATCH, FEATURES).double()
    model.begin_task(CLASSES)
    optimizer = hat.guard(torch.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9), model)
    learn(model, optimizer, x, steps=2)
    momentum = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in model.named_parameters()}
    hat.grow(model, 2)
    for name, parameter in model.named_parameters():
        now, then = optimizer.state[parameter]["momentum_buffer"], momentum[name]
        inside = tuple(slice(0, length) for length in then.shape)
        assert now.shape == parameter.shape, name
        assert torch.equal(now[inside], then), name
        assert now.count_nonzero() == then.count_nonzero(), name


def test_a_recorded_step_notices():
    model, x = learned(6, 7)
    model.begin_task(CLASSES)
    step = hat.TrainStep(model, OPTIMIZERS["SGD"](model), F.cross_entropy)
    y = torch.zeros(BATCH, dtype=torch.int64)
    step(x, y, progress=0.0)
    hat.grow(model, 3)
    assert torch.isfinite(step(x, y, progress=1.0).task)


def test_a_state_of_a_grown_model_loads_into_a_fresh_one():
    model, x = learned(6, 7)
    hat.grow(model, {"gates.linear1": 2})
    finish(model, x, 5)
    hat.grow(model, 3)
    other = mlp(6, 7)
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(answers(other, x), answers(model, x), strict=True))


def test_a_state_that_does_not_fit_leaves_the_model_as_it_was():
    model, _ = learned(6, 7)
    hat.grow(model, 3)
    state = model.state_dict()
    state["heads.0.weight"] = state["heads.0.weight"][:, :-1]
    fresh = mlp(6, 7)
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(RuntimeError, match=r"heads\.0\.weight"):
        fresh.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_grown_models_are_exported_without_what_joined():
    model, x = learned(6, 7)
    units = [int((gate.masks[1] > 0).sum()) for gate in model.gates.values()]
    hat.grow(model, 50)
    network = hat.export(model, task=1)
    assert [layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear)][:2] == units
    same([network(x)], answers(model, x)[1:])


@pytest.mark.filterwarnings("ignore::hat.CapacityWarning")
@pytest.mark.parametrize("grown", [{"gates.a": 2}, {"gates.b": 3}, {"gates.a": 1, "gates.b": 1, "gates.c": 4}])
def test_new_units_behind_a_concatenation_get_gradients(grown):
    parts = {"a": nn.Linear(5, 3), "b": nn.Linear(5, 4), "c": nn.Linear(7, 6), "head": nn.Linear(6, 2)}
    network = Net(lambda s, x: s.head(torch.tanh(s.c(torch.cat([torch.tanh(s.a(x)), torch.tanh(s.b(x))], 1)))), **parts)
    torch.manual_seed(0)
    x = torch.randn(8, 5)
    model = hat.convert(network, x, config=hat.GateConfig(fold="never"))
    model.begin_task(2)
    with torch.no_grad():
        for name, used in (("gates.a", 3), ("gates.b", 2), ("gates.c", 3)):
            model.gates[name].embedding.fill_(-1)[:used] = 1
    model.end_task()
    model.begin_task(2)
    model(x).square().sum().backward()  # every layer has asked once what is locked
    model.zero_grad()
    hat.grow(model, grown)
    model.anneal(0.0)
    model(x).square().sum().backward()
    weight = model.body.network.c.weight
    may_move = rate(model.locks()[weight], weight).expand_as(weight) == 1
    assert (~may_move).any()
    assert ((weight.grad != 0) | ~may_move).all()


# ---------------------------------------------------------------- any network

GROWN = {
    "mlp": 3, "resnet": 4, "concatenation": 4, "swiglu": 2, "depthwise_of_inputs": 2, "grouped_inputs": 2,
    "flattened_by_view": 2, "flattened_positions_first": 2, "squeeze_and_excite": 3, "convnext": 3, "dense": 4,
    "transformer_fused": 5, "qkv_by_reshape": 4, "torch_encoder": 5, "preactivation": 2, "scales": 2,
    "transposed_weights": 4,
}  # fmt: skip
"""The number of gates of each network. All must grow, because a gate that does not grow would not be tested."""


@pytest.mark.filterwarnings("ignore::hat.CapacityWarning")
@pytest.mark.parametrize("name", GROWN)
def test_converted_networks_grow_everywhere(name):
    module, example = NETWORKS[name]()
    model = convert(module, example, head=None)
    inputs = example if len(example) > 1 else example[0]
    for task in range(2):
        model.begin_task(CLASSES)
        draw_units(model, task, 0.5)
        draw_per_task(model, task)
        model.end_task()
    expected = answers(model, inputs)
    joined = hat.grow(model, 3)
    assert len(joined) == len(model.gates) == GROWN[name]
    assert all(number >= 3 for number in joined.values())
    same(answers(model, inputs), expected)
    expected = answers(model, inputs)
    model.begin_task(CLASSES)
    optimizer = OPTIMIZERS["AdamW"](model)
    for progress in (0.0, 1.0):
        model.anneal(progress)
        model(inputs).square().mean().backward()
        optimizer.step()
    draw_units(model, 9, 0.6)
    model.end_task()
    assert all(torch.equal(a, b) for a, b in zip(answers(model, inputs), expected, strict=False))


class Beside(nn.Module):
    """Two layers side by side; a third layer reads both."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.both, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.both(torch.cat([self.a(x), self.b(x)], 1).relu()).relu())


@pytest.mark.filterwarnings("ignore::hat.CapacityWarning")
def test_weights_of_units_that_join_behind_locked_ones_are_learned():
    """The new units come before locked units of the second layer, so the frozen block of the weight is smaller."""
    torch.manual_seed(0)
    model = hat.convert(Beside(), torch.randn(2, 3))
    model.begin_task(2)
    with torch.no_grad():
        for name, gate in model.gates.items():
            gate.embedding.copy_(torch.where(torch.arange(gate.units) < (4 if name == "gates.a" else 2), 1.0, -1.0))
    model.end_task()
    model.begin_task(2)
    model(torch.randn(5, 3)).sum().backward()
    hat.grow(model, {"gates.a": 2})
    (layer,) = (m for m in model.body.modules() if isinstance(m, hat.HATLinear) and m.in_features == 10)
    layer.weight.grad = None
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.fill_(1)
        layer.bias.fill_(9)  # all units answer
    model(torch.randn(5, 3)).square().sum().backward()
    assert layer.weight.grad[:2, 4:6].any()


def test_norms_go_on_over_as_many_units_as_there_were():
    """The mean over 8 units, 4 of which are off, differs from the mean over 11 units."""
    module, example = NETWORKS["transformer_fused"]()
    model = convert(module, example, head=None)
    norms = [m for m in model.body.modules() if isinstance(m, hat.HATLayerNorm)]
    finish_without_steps(model)
    hat.grow(model, 3)
    finish_without_steps(model)
    assert norms
    for norm in norms:
        assert norm.count_tasks.tolist() == [8, 11]
        assert norm.normalized_shape == (11,)


def finish_without_steps(model):
    model.begin_task(CLASSES)
    draw_units(model, 3, 0.5)
    model.end_task()


def test_heads_of_attention_grow_alike():
    module, example = NETWORKS["transformer_fused"]()  # of two heads
    model = convert(module, example, head=None)
    finish_without_steps(model)
    assert hat.grow(model, {"gates.qkv": 1}) == {"gates.qkv": 2}


def test_whole_heads_join():
    torch.manual_seed(0)
    x = torch.randn(2, 4, FEATURES)
    model = convert(nn.Sequential(nn.Linear(FEATURES, 6), Attention(6, 2)), x, head=None, per_head=True)
    finish_without_steps(model)
    expected = answers(model, x)
    joined = hat.grow(model, 1)
    assert joined == {"gates.0": 1, "gates.1_query": 2, "gates.1_out": 1}  # one beside each that is there
    assert model.body.network.get_submodule("1.value").out_features == 12
    same(answers(model, x), expected)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("by", "error", "message"),
    [
        (0, ValueError, "by: expected numbers > 0, got 0"),
        (-1.5, ValueError, "by: expected numbers > 0, got -1.5"),
        (float("nan"), ValueError, "by: expected numbers > 0, got nan"),
        (True, TypeError, "by: expected numbers, got bool"),
        ("2", TypeError, "by: expected numbers, got str"),
        (
            {"gates.linear9": 1},
            ValueError,
            "by: expected names of gates, gates.linear1, gates.linear2, got 'gates.linear9'",
        ),
    ],
)
def test_wrong_numbers_are_refused(by, error, message):
    with pytest.raises(error, match=message.replace("[", r"\[")):
        hat.grow(mlp(4, 4), by)


def test_only_models_grow():
    with pytest.raises(TypeError, match=r"model: expected a hat.HATModel, got Linear"):
        hat.grow(nn.Linear(1, 1), 1)


def test_an_axis_that_cannot_grow_is_named():
    module, example = NETWORKS["moments"]()  # a mean over units
    model = convert(module, example, head=None)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"gates.one: cannot grow"):
        hat.grow(model, {"gates.one": 2})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.warns(hat.CapacityWarning, match=r"cannot grow: gates.one"):
        assert hat.grow(model, 2) == {"gates.last": 2}


def test_float32_is_within_rounding_of_itself():
    model, x = learned(64, 64)
    expected = answers(model, x)
    hat.grow(model, 1.0)
    for now, then in zip(answers(model, x), expected, strict=True):
        assert (now - then).abs().max() <= 64 * EPS * then.abs().max()


# ---------------------------------------------------------------- what is alive meanwhile


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_answers_that_are_still_alive_do_not_disturb_the_next_gradients(name):
    """Autograd keeps the shape of a weight as long as an answer is alive."""
    model, x = learned(6, 7)
    model.begin_task(CLASSES)
    optimizer = OPTIMIZERS[name](model)
    alive = [model(x, task=0), model(x)]
    hat.grow(model, 2)
    learn(model, optimizer, x)
    assert all(answer.grad_fn is not None for answer in alive)
    assert all(p.grad is None or p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("which", ["all", "first", "last"])
def test_a_loss_of_before_is_refused_afterwards(which):
    model, x = learned(6, 7)
    model.begin_task(CLASSES)
    loss = F.cross_entropy(model(x), torch.arange(BATCH) % CLASSES) + model.penalty()
    names = list(model.gates)
    hat.grow(model, {"all": 2, "first": {names[0]: 2}, "last": {names[-1]: 2}}[which])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_guarded_lbfgs_goes_on():
    model, x = learned(6, 7)
    model.begin_task(CLASSES)
    optimizer = hat.guard(torch.optim.LBFGS(model.task_parameters(), lr=0.1), model)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), torch.arange(BATCH) % CLASSES) + model.penalty()
        loss.backward()
        return loss

    model.anneal(1.0)
    optimizer.step(closure)
    hat.grow(model, 2)
    expected, new = answers(model, x)[:2], model.body.network.linear1.weight[-2:].detach().clone()
    model.train()
    optimizer.step(closure)
    assert all(map(torch.equal, answers(model, x)[:2], expected))
    assert not torch.equal(model.body.network.linear1.weight[-2:], new)
