"""Linear maps that a network writes as products with a weight are followed like linear layers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.layers.transposed import TransposedLinear
from hat.units.locks import locks
from tests.hat.conversion.checks import OPTIMIZERS, answers, convert, draw_units, features, learn, others, same
from tests.hat.conversion.zoo import NETWORKS, Conv1D, Net, parameter

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]

PLAIN = {  # weight [8, 6]
    "x @ W.T": lambda s, h: h @ s.w.T,
    "x @ W.mT": lambda s, h: h @ s.w.mT,
    "mm": lambda s, h: h.mm(s.w.transpose(-1, -2)),
    "mm by keywords": lambda s, h: torch.mm(input=h, mat2=s.w.permute(1, 0)),
    "W @ x": lambda s, h: (s.w @ h.t()).t(),
    "einsum": lambda s, h: torch.einsum("bi,oi->bo", h, s.w),
    "einsum, weight first": lambda s, h: torch.einsum("oi,...i->...o", s.w, h),
    "einsum without an arrow": lambda s, h: torch.einsum("bi,ci", h, s.w),
    "inner": lambda s, h: torch.inner(h, s.w),
    "tensordot": lambda s, h: torch.tensordot(h, s.w, dims=([1], [1])),
    "addmm": lambda s, h: torch.addmm(s.b, h, s.w.t()),
}
TRANSPOSED = {  # weight [6, 8]
    "x @ W": lambda s, h: h @ s.w,
    "matmul": lambda s, h: torch.matmul(h, s.w),
    "matmul by keywords": lambda s, h: torch.matmul(input=h, other=s.w),
    "x.mm(W)": lambda s, h: h.mm(s.w),
    "W.T @ x": lambda s, h: (s.w.T @ h.t()).t(),
    "einsum": lambda s, h: torch.einsum("bi,io->bo", h, s.w),
    "einsum over another dimension": lambda s, h: torch.einsum("bti,io->bot", h[:, None], s.w)[..., 0],
    "tensordot": lambda s, h: torch.tensordot(h, s.w, 1),
    "F.linear": lambda s, h: F.linear(h, s.w.t(), s.b),
    "addmm": lambda s, h: torch.addmm(s.b, h, s.w),
    "addmm with a bias a sample": lambda s, h: torch.addmm(h.mean(1, keepdim=True), h, s.w),
    "b.addmm": lambda s, h: s.b.addmm(h, s.w),
}
NO_MAPS = {
    "a computed weight": lambda s, h: h @ s.w.tanh(),
    "a part of the weight": lambda s, h: h @ s.w[:, :8],
    "scaled": lambda s, h: torch.addmm(s.b, h, s.w, beta=2),
    "not summed": lambda s, h: torch.einsum("bi,io->bio", h, s.w).mean(1),
    "two weights": lambda s, h: F.linear(h, s.w.t() @ (s.w @ s.w.t())),
}
X = torch.randn(4, 5, generator=torch.Generator().manual_seed(3)).double()


def network(form, *shape):
    torch.manual_seed(1)
    weight = nn.Parameter(torch.randn(*shape))
    parts = {"one": nn.Linear(5, 6), "w": weight, "b": nn.Parameter(torch.randn(8)), "head": nn.Linear(8, 3)}
    return Net(lambda s, x: s.head(F.relu(form(s, F.relu(s.one(x))))), **parts).double(), weight


def layers(model):
    kinds = nn.Linear | TransposedLinear
    return {id(part.weight): type(part) for part in model.body.network.modules() if isinstance(part, kinds)}


@pytest.mark.parametrize(("form", "shape"), [
    *(pytest.param(form, (8, 6), id=f"{name}, [outputs, inputs]") for name, form in PLAIN.items()),
    *(pytest.param(form, (6, 8), id=f"{name}, [inputs, outputs]") for name, form in TRANSPOSED.items()),
])  # fmt: skip
def test_a_product_with_a_weight_is_a_layer(form, shape):
    """The parameter stays the same object, in its shape, and its outputs and inputs lie along gates."""
    module, weight = network(form, *shape)
    names = {name for name, _ in module.one.named_parameters(prefix="one")} | {"w"}
    expected, model = module(X), hat.convert(module, X, head=None)
    with torch.no_grad(), model.eval().state.answering(hat.units.state.OPEN):
        torch.testing.assert_close(model.body(X), expected, rtol=1e-12, atol=1e-12)
    assert layers(model)[id(weight)].__name__ == ("HATLinear" if shape == (8, 6) else "TransposedLinear")
    lock = locks(model.body)[weight]
    outputs, inputs = (lock.rows, lock.columns) if shape == (8, 6) else (lock.columns, lock.rows)
    assert (len(outputs), len(inputs)) == (8, 6)
    in_body = {name.removeprefix("body.network.") for name, p in model.named_parameters() if p.shape == shape}
    assert names & in_body or any("w" in name for name in in_body)
    assert {"own": hat.summary(model).own, "frozen": hat.summary(model).frozen} == {"own": 0, "frozen": 0}


@pytest.mark.filterwarnings("ignore::hat.UnlockedWarning")
@pytest.mark.parametrize("form", NO_MAPS.values(), ids=NO_MAPS)
def test_other_products_are_no_layers(form):
    module, weight = network(form, 6, 8)
    model = hat.convert(module, X)
    assert id(weight) not in layers(model)


@pytest.mark.parametrize("optimizer", ["SGD", "torch AdamW"])
@pytest.mark.parametrize("name", ["transposed_weights", "transposed_weights_and_others"])
def test_three_tasks_grow_export_and_forget(name, optimizer):
    module, example = NETWORKS[name]()
    model, remembered, inputs, gate = convert(module, example, head=None), [], others(example), None
    for task in range(3):
        model.begin_task(2)
        learn(model, example, OPTIMIZERS[optimizer](model))
        draw_units(model, task, 0.4)
        model.end_task()
        remembered.append(features(model, inputs, hat.units.state.Finished(task)))
        same(answers(model, inputs), remembered)
        with torch.no_grad():
            small, expected = hat.export(model, task=task), model(inputs if len(inputs) > 1 else inputs[0], task=task)
            torch.testing.assert_close(small(*inputs), expected, rtol=1e-10, atol=1e-10)
        assert not [part for part in small.modules() if isinstance(part, TransposedLinear)]
        shapes = {name: p.shape for name, p in model.body.named_parameters()}
        if task < 2:
            gate = gate or next(name for name, gate in model.gates.items() if gate.units in (8, 4))
            hat.grow(model, {gate: 2})
            assert {name: p.shape for name, p in model.body.named_parameters()} != shapes
            for got, then in zip(answers(model, inputs), remembered, strict=True):
                torch.testing.assert_close(got[..., : then.shape[-1]], then, rtol=1e-10, atol=1e-10)
            remembered = answers(model, inputs)
    hat.forget(model, 1)
    for task in (0, 2):
        torch.testing.assert_close(answers(model, inputs)[task], remembered[task], rtol=0, atol=0)


def test_locks_of_the_other_layout_are_those_of_a_linear_layer():
    """The same network with `nn.Linear`, and with the transposed weights: every weight of both is locked alike."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    other = copy.deepcopy(plain)
    for index in (0, 2):
        linear = plain[index]
        other[index] = Conv1D(linear.out_features, linear.in_features).double()
        other[index].weight.data, other[index].bias.data = linear.weight.data.t().contiguous(), linear.bias.data.clone()
    models = [hat.convert(module, X) for module in (plain, other)]
    for task in range(2):
        for model in models:
            torch.manual_seed(task)
            model.begin_task(3)
            optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
            for progress in (0.0, 0.5, 1.0):
                model.anneal(progress)
                optimizer.zero_grad()
                (F.cross_entropy(model(X), torch.arange(4) % 3) + model.penalty()).backward()
                optimizer.step()
            model.end_task()
        first, second = models
        for index in (0, 2):
            a, b = (model.body.network.get_submodule(str(index)) for model in models)
            torch.testing.assert_close(a.weight, b.weight.t(), rtol=1e-9, atol=1e-9)
        assert [gate.used.tolist() for gate in first.gates.values()] == [g.used.tolist() for g in second.gates.values()]
        assert hat.summary(first).locked == hat.summary(second).locked


def test_a_stock_optimizer_of_the_user_and_a_state_keep_working():
    module, weight = network(TRANSPOSED["x @ W"], 6, 8)
    optimizer, state = torch.optim.SGD([weight], lr=0.1), {"w": weight.detach().clone()}
    model = hat.convert(module, X)
    assert optimizer.param_groups[0]["params"][0] in locks(model.body)
    keys = [key for key, value in model.state_dict().items() if value.shape == (6, 8)]
    assert len(keys) == 1
    assert torch.equal(model.state_dict()[keys[0]], state["w"])


def test_the_head_may_be_a_map():
    module = Net(lambda s, x: F.relu(s.one(x)) @ s.w, one=nn.Linear(5, 6), w=parameter(6, 3)).double()
    model = hat.convert(module, X)
    assert (model.features, list(model.gates)) == (6, ["gates.one"])


@pytest.mark.parametrize("bias", [True, False])
def test_new_values_are_drawn_as_a_linear_layer_draws_them(bias):
    layer = TransposedLinear(nn.Parameter(torch.zeros(100, 50)), nn.Parameter(torch.zeros(50)) if bias else None)
    layer.reset_parameters()
    assert 0.09 < layer.weight.abs().max() <= 0.1
    assert not bias or 0.05 < layer.bias.abs().max() <= 0.1
