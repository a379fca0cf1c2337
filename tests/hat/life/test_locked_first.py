"""Training is the same whether locked units move to the front or stay, and only free elements cost work."""

import copy
import gc
import io
import json
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import hat
from hat.layers.stochastic_depth import StochasticDepth
from hat.network.moving import expanded
from hat.units.blocks import Block, cut
from hat_kernels.gradient_memory import norm_bound
from hat_kernels.limits import LARGEST
from hat_kernels.lock import rate
from tests.hat.nets import dense, networks, outputs_of, use

# Tasks that use no unit and full networks are part of what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::hat.CapacityWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.usefixtures("one_thread"),
]
SLOW_IS_FINE = settings(
    deadline=None, max_examples=16, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
EPS = torch.finfo(torch.float32).eps
BATCH = 4

# `eps` far above the rounding of a gradient: divided by its own size, one that rounds to 0 would be a step of lr.
OPTIMIZERS = {
    "SGD": lambda m, p: hat.optim.SGD(p, lr=0.1, model=m),
    "SGD decay": lambda m, p: hat.optim.SGD(p, lr=0.1, weight_decay=0.1, model=m),
    "SGD momentum": lambda m, p: hat.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True, model=m),
    "SGD dampening": lambda m, p: hat.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, max_norm=1.0, model=m),
    "AdamW": lambda m, p: hat.optim.AdamW(p, lr=0.05, eps=1e-3, weight_decay=0.1, amsgrad=True, model=m),
    "torch SGD": lambda m, p: hat.guard(torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1), m, max_norm=1.0),
    "torch AdamW": lambda m, p: hat.guard(torch.optim.AdamW(p, lr=0.05, eps=1e-3, weight_decay=0.1), m),
    "torch RMSprop": lambda m, p: hat.guard(torch.optim.RMSprop(p, lr=0.02, eps=1e-1, momentum=0.5, centered=True), m),
    "torch Adagrad": lambda m, p: hat.guard(torch.optim.Adagrad(p, lr=0.1, eps=1e-1, lr_decay=0.1), m),
    "torch Adafactor": lambda m, p: hat.guard(torch.optim.Adafactor(p, lr=0.05), m),
}


def without_dropout(body):
    for module in body.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return body


def pair(network, seed):
    """Two models in float64 that differ only in that the first moves units and the second does not."""
    body, _, features = network
    torch.manual_seed(seed)
    for parameter in without_dropout(body).parameters():
        nn.init.normal_(parameter, std=0.5)
    outputs = outputs_of(body)
    if outputs is not None:
        for module in body.modules():
            if isinstance(module, hat.Gate):
                module.complete = True
    model = hat.HATModel(body, features=features, outputs=outputs).double()
    plain = copy.deepcopy(model)
    plain.state.config = hat.GateConfig(locked_first=False)
    return model, plain


def mlp_pair(hidden=(9, 8), seed=0):
    return pair((hat.models.mlp(6, hidden, activation="tanh"), (6,), hidden[-1]), seed)


def draws(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def begin(model, seed):
    """The head has the same weights wherever the features have moved to."""
    torch.manual_seed(seed)
    model.begin_task(3)
    outputs, gates = model.outputs, model.gates.values()
    origin = torch.arange(model.features)
    if outputs is not None and outputs in gates:
        origin = expanded(outputs.origin, model.features // outputs.units)
    with torch.no_grad():
        model.head.weight.copy_(draws((3, model.features), seed)[:, origin])


def draw_units(model, seed, kind="drawn"):
    with torch.no_grad():
        for index, gate in enumerate(model.gates.values()):
            values = draws((gate.units,), seed + 97 * index).float()
            values = {"none": -values.abs() - 0.1, "all": values.abs() + 0.1}.get(kind, values)
            gate.embedding.copy_(values[gate.origin])


def step(model, optimizer, x):
    optimizer.zero_grad()
    (F.cross_entropy(model(x).to(torch.float64), torch.arange(len(x)) % 3) + 0.75 * model.penalty()).backward()
    optimizer.step()


def train(model, optimizer, x, steps=3):
    """Uses scales of 0 to 4. At 400, a gate could change by a tenth if the last bit of its embedding changes."""
    for number in range(steps):
        model.train().anneal(number / steps * 0.01)
        step(model, optimizer, x)


def optimizer_for(name, model, optimizer, keep):
    if optimizer is None or not keep:
        return OPTIMIZERS[name](model, list(model.task_parameters()))
    optimizer.add_param_group({"params": list(model.head.parameters())})
    return optimizer


def agree(model, plain):
    """Every parameter and mask, with the units of `plain` in the order that `model` has them."""
    modules = dict(zip(model.modules(), plain.modules(), strict=True))
    expected, seen = {}, set()
    for gate in model.gates.values():
        twin = modules[gate]
        assert torch.equal(gate.masks, twin.masks[:, gate.origin])
        expected[gate.embedding] = twin.embedding[gate.origin], 1
        for module, name, dim, repeat, *_ in gate.members:
            parameter = getattr(module, name)
            if parameter is None or (parameter, dim) in seen:
                continue
            seen.add((parameter, dim))
            groups = getattr(module, "groups", 1) if name == "weight" else 1
            values = expected.get(parameter, (dense(getattr(modules[module], name).detach(), groups), groups))[0]
            expected[parameter] = values.index_select(dim, expanded(gate.origin, repeat)), groups
    if model.learning:
        features = expanded(model.outputs.origin, model.features // model.outputs.units)
        expected[model.head.weight] = plain.head.weight[:, features], 1
        expected[model.head.bias] = plain.head.bias, 1
    for parameter, (values, groups) in expected.items():
        close(dense(parameter, groups), values)


def close(got, expected):
    """To a few roundings of the float32 in which embeddings are kept; the rest is float64."""
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 256 * EPS * (1 + expected.abs().max())


def run_both(models, x, name, keep, plan=("drawn", "drawn", "drawn"), seed=0):
    optimizers = [None, None]
    for task, kind in enumerate(plan):
        for index, model in enumerate(models):
            begin(model, seed + task)
            optimizers[index] = optimizer_for(name, model, optimizers[index], keep)
            train(model, optimizers[index], x)
        agree(*models)
        for model in models:
            draw_units(model, seed + task, kind)
            model.end_task()
        agree(*models)
        for old in range(task + 1):
            close(*(model.eval()(x, task=old) for model in models))
    return optimizers


# ---------------------------------------------------------------- the same training

# The bias of attention's keys has a gradient of rounding noise, as a softmax does not see it. Adafactor divides by the
# size of a gradient, however small: it makes whole steps of that noise, others each time the sums have another order.
STABLE = sorted(OPTIMIZERS.keys() - {"torch Adafactor"})


@SLOW_IS_FINE
@given(
    network=networks,
    name=st.sampled_from(STABLE),
    keep=st.booleans(),
    plan=st.lists(st.sampled_from(["drawn", "drawn", "drawn", "none", "all"]), min_size=2, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_any_network(network, name, keep, plan, seed):
    run_both(pair(network, seed), draws((BATCH, *network[1]), 5), name, keep, plan, seed)


@pytest.mark.parametrize("keep", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name, keep):
    models = mlp_pair()
    run_both(models, draws((BATCH, 6), 5), name, keep)
    assert not any(torch.equal(gate.origin, torch.arange(gate.units)) for gate in models[0].gates.values())


@pytest.mark.parametrize("name", ["SGD momentum", "torch SGD"])
def test_images(name):
    torch.manual_seed(0)
    body = hat.models.alexnet((2, 16, 16), channels=(6, 7, 8), hidden=(11, 9))
    run_both(pair((body, None, 9), 0), draws((BATCH, 2, 16, 16), 5), name, True)


def test_inside_of_the_backward_pass():
    moved, plain = models = mlp_pair()
    x = draws((BATCH, 6), 5)
    for task in range(3):
        for model in models:
            begin(model, task)
            inside = model is moved
            train(model, hat.optim.SGD(model.task_parameters(), lr=0.1, weight_decay=0.1, in_backward=inside), x)
            assert inside == (model.body.network.linear2.weight.grad is None)
        agree(moved, plain)
        for model in models:
            draw_units(model, task)
            model.end_task()
        agree(moved, plain)


# ---------------------------------------------------------------- the gradient that a user reads


def conv(dims, inputs, outputs, **options):
    kind = {1: hat.HATConv1d, 2: hat.HATConv2d, 3: hat.HATConv3d}[dims]
    return kind(inputs, outputs, 3, **options), (inputs, *[5] * dims)


LAYERS = {
    "linear": lambda: (hat.HATLinear(6, 8), (6,)),
    "linear without bias": lambda: (hat.HATLinear(6, 8, bias=False), (6,)),
    "linear of a stream": lambda: (hat.HATLinear(6, 8), (4, 6)),
    "linear of channels after a flatten": lambda: (hat.HATLinear(18, 8), (18,)),
    "conv1d": lambda: conv(1, 6, 8),
    "conv2d": lambda: conv(2, 6, 8, stride=2, padding=1),
    "conv3d": lambda: conv(3, 6, 8, dilation=2, padding=(2, 1, 2)),
    "no bias": lambda: conv(2, 6, 8, bias=False),
    "same": lambda: conv(2, 6, 8, padding="same", dilation=(1, 2)),
    "same, even": lambda: (hat.HATConv1d(6, 8, 4, padding="same"), (6, 5)),
    "valid": lambda: conv(1, 6, 8, padding="valid"),
    "circular": lambda: conv(2, 6, 8, padding=(1, 2), padding_mode="circular"),
    "circular same": lambda: conv(1, 6, 8, padding="same", padding_mode="circular"),
    "reflect": lambda: conv(2, 6, 8, padding=1, padding_mode="reflect", stride=2),
    "replicate": lambda: conv(3, 6, 8, padding=1, padding_mode="replicate"),
    "groups": lambda: conv(2, 6, 8, groups=2, padding=1),
    "depthwise": lambda: conv(2, 6, 6, groups=6),
    "depthwise, two each": lambda: conv(1, 6, 12, groups=6, stride=2),
    "pooled": lambda: conv(2, 6, 8, pool=nn.MaxPool2d(2)),
}


def locked(make, used_in, used_out):
    """A layer of float64 with these shares of used units at the front, its shape of inputs, and the frozen block."""
    torch.manual_seed(0)
    layer, shape = make()
    channels = layer.weight.shape[1] * getattr(layer, "groups", 1)
    inputs = hat.Gate(6)
    layer.connect(inputs, repeat=channels // 6)
    for gate, share in ((inputs, used_in), (layer.gate, used_out)):
        use(gate, [int(unit < share * gate.units) for unit in range(gate.units)])
    return nn.ModuleList([inputs, layer]).double(), shape


def gradients(layer, x, dy, autocast=False):
    leaves = [x.clone().requires_grad_(), *layer.parameters()]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(leaves[0])
    return dict(
        zip(["x", *dict(layer.named_parameters())], torch.autograd.grad(y, leaves, dy.to(y.dtype)), strict=True)
    )


def compare(body, x, autocast=False, tolerance=1e-12):
    """Compare with the library's layer: the gradient is 0 for locked elements, and only for those."""
    twin = copy.deepcopy(body)
    for gate in (twin[0], twin[1].gate):
        gate.locked = 0
    dy = torch.randn_like(body[1](x).detach())
    got, expected = (gradients(each[1], x, dy, autocast) for each in (body, twin))
    held = {name: rate(lock, p) == 0 for name, p in body[1].named_parameters() if (lock := lock_of(body, p))}
    if getattr(body[1], "groups", 1) > 1:
        held["bias"] &= held["weight"].flatten(1).all(1)  # that of a group which is not locked altogether is computed
    for name, grad in got.items():
        assert grad.shape == expected[name].shape
        assert grad.dtype == expected[name].dtype
        wanted = expected[name].clone()
        if name in held:
            assert not grad[held[name].expand_as(grad)].any()
            wanted[held[name].expand_as(grad)] = 0
        assert (grad - wanted).abs().max() <= tolerance * expected[name].abs().max()
    return held


def lock_of(body, parameter):
    return hat.units.locks.locks(body).get(parameter)


@pytest.mark.parametrize("used_in", [0.5, 1.0])
@pytest.mark.parametrize("used_out", [0.5, 1.0])
@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_that_a_user_reads(name, used_out, used_in):
    """Only whole groups are locked here, so the block is everything that is locked."""
    body, shape = locked(LAYERS[name], used_in, used_out)
    held = compare(body, draws((3, *shape), 1))
    assert held["weight"].any()


@pytest.mark.parametrize("used_in", [0.5, 1.0])
@pytest.mark.parametrize("name", LAYERS)
def test_under_autocast(name, used_in):
    """Gradients of float32 from sums in bfloat16, rounded once more where they are made of two."""
    body, shape = locked(LAYERS[name], used_in, 0.5)
    body.float()
    compare(body, draws((3, *shape), 1).float(), autocast=True, tolerance=2 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("name", ["linear", "conv2d", "groups"])
def test_validation_under_autocast(name):
    """Without a gradient, in the middle of a task, on what a layer before has left in bfloat16."""
    body, shape = locked(LAYERS[name], 0.5, 0.5)
    layer = body.float().eval()[1]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = layer(draws((3, *shape), 1).bfloat16())
    layer.gate.locked = 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(draws((3, *shape), 1).bfloat16())
    assert y.dtype == expected.dtype
    assert torch.equal(y, expected)


def test_one_input_without_a_batch():
    body, _ = locked(LAYERS["linear"], 0.5, 0.5)
    layer = body[1].float()
    x = draws((6,), 1).float()
    one = gradients(layer, x, torch.ones(8))
    batch = gradients(layer, x[None], torch.ones(1, 8))
    for name, grad in one.items():
        torch.testing.assert_close(grad, batch[name].view_as(grad))


def test_the_gradients_of_a_model():
    """Gradients are 0 for locked elements and present for free ones, and their norm keeps its upper bound."""
    model, _ = mlp_pair()
    x = draws((BATCH, 6), 5)
    begin(model, 0)
    draw_units(model, 0)
    model.end_task()
    begin(model, 1)
    model.anneal(0.005)
    F.cross_entropy(model(x), torch.arange(BATCH) % 3).backward()
    for parameter, lock in model.locks().items():
        held = (rate(lock, parameter) == 0).expand_as(parameter)
        assert parameter.grad.shape == parameter.shape
        assert held.any()
        assert not parameter.grad[held].any()
        assert parameter.grad[~held].any()
    weight = model.body.network.linear1.weight
    assert norm_bound(weight) >= weight.grad.norm() * (1 - 8 * EPS)


def test_accumulation_over_two_batches():
    model, plain = mlp_pair()
    for each in (model, plain):
        begin(each, 0)
        draw_units(each, 0)
        each.end_task()
        begin(each, 1)
        optimizer = hat.optim.SGD(each.task_parameters(), lr=0.1, max_norm=0.5)
        each.anneal(0.005)
        for _ in range(2):
            for seed in (5, 6, 7):
                loss = F.cross_entropy(each(draws((BATCH, 6), seed)), torch.arange(BATCH) % 3)
                (loss + 0.75 * each.penalty()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    agree(model, plain)


# ---------------------------------------------------------------- what an optimizer keeps


def second_task(name="SGD momentum", dtype=torch.float32, keep=True, steps=2):
    """(model, optimizer) in the middle of the second task."""
    torch.manual_seed(0)
    model = hat.HATModel(hat.models.mlp(6, (9, 8), input_dropout=0.0, dropout=0.0).to(dtype))
    x = draws((BATCH, 6), 5).to(dtype)
    begin(model, 0)
    optimizer = optimizer_for(name, model, None, keep)
    train(model, optimizer, x, steps)
    draw_units(model, 0)
    model.end_task()
    begin(model, 1)
    optimizer = optimizer_for(name, model, optimizer, keep)
    train(model, optimizer, x, steps)
    return model, optimizer, x


def tensors(value):
    return [value] if isinstance(value, torch.Tensor) else list(value)


def extending(state):
    return {name: value for name, value in state.items() if name != "step"}


@pytest.mark.parametrize("name", ["SGD momentum", "AdamW"])
def test_states_are_of_the_blocks(name):
    model, optimizer, _ = second_task(name)
    blocks, locks = model.blocks(), model.locks()
    for parameter, state in optimizer.state.items():
        for value in extending(state).values():
            shapes = [part.shape for part in cut(parameter, blocks.get(parameter, [Block()]))]
            assert [part.shape for part in tensors(value)] == shapes
            if parameter in locks:
                assert sum(part.numel() for part in tensors(value)) == rates(locks[parameter], parameter).sum()
            assert all(part.untyped_storage().nbytes() == part.nbytes for part in tensors(value))


def rates(lock, parameter):
    return rate(lock, parameter).expand_as(parameter)


@pytest.mark.parametrize("name", ["SGD momentum", "AdamW"])
def test_states_shrink_and_those_of_a_finished_head_go(name):
    model, optimizer, x = second_task(name)
    size = sum(part.numel() for state in optimizer.state.values() for v in state.values() for part in tensors(v))
    assert set(optimizer.state) == {*model.task_parameters()}
    head = set(model.head.parameters())
    draw_units(model, 1)
    model.end_task()
    left = [part for state in optimizer.state.values() for value in state.values() for part in tensors(value)]
    assert sum(part.numel() for part in left) < size
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in left)
    assert not head & set(optimizer.state)
    begin(model, 2)
    draw_units(model, 2, "all")
    model.end_task()
    for parameter, state in optimizer.state.items():
        if parameter in model.blocks():
            assert all(value == [] for value in extending(state).values())
    begin(model, 3)
    train(model, optimizer, x)
    assert not optimizer.state.keys() & set(model.head.parameters())


@pytest.mark.parametrize("name", ["SGD momentum", "AdamW"])
def test_a_state_that_is_the_parameter_still_is_it_after_a_move(name):
    """The same holds for embeddings."""
    model, optimizer, x = second_task(name)
    for task in (1, 2):
        draw_units(model, task)
        for parameter, state in optimizer.state.items():
            blocks = model.blocks().get(parameter, [Block()])
            for value in extending(state).values():
                for part, view in zip(tensors(value), cut(parameter.detach(), blocks), strict=True):
                    part.copy_(view)
        before = [gate.origin.clone() for gate in model.gates.values()]
        model.end_task()
        assert not all(torch.equal(gate.origin, old) for gate, old in zip(model.gates.values(), before, strict=True))
        assert set(model.embeddings) <= set(optimizer.state)
        for parameter, state in optimizer.state.items():
            blocks = model.blocks().get(parameter, [Block()])
            for value in extending(state).values():
                for part, view in zip(tensors(value), cut(parameter, blocks), strict=True):
                    assert torch.equal(part, view)
        begin(model, task + 1)
        optimizer.add_param_group({"params": list(model.head.parameters())})
        optimizer.state.clear()  # a mean of squares that is negative would be a NaN
        train(model, optimizer, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["SGD momentum", "AdamW"])
def test_state_dict_in_the_middle_of_the_second_task(name, dtype):
    model, optimizer, x = second_task(name, dtype, keep=False)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = hat.HATModel(hat.models.mlp(6, (9, 8), input_dropout=0.0, dropout=0.0).to(dtype))
    other.load_state_dict(saved["model"])
    resumed = OPTIMIZERS[name](other, list(other.task_parameters()))
    resumed.load_state_dict(saved["optimizer"])
    assert {p.dtype for s in resumed.state.values() for v in s.values() for p in tensors(v)} == {torch.float32}
    for each, own in ((model, optimizer), (other, resumed)):
        train(each, own, x)
        draw_units(each, 3)
        each.end_task()
        begin(each, 2)
        own.add_param_group({"params": list(each.head.parameters())})
        train(each, own, x)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", ["SGD momentum", "AdamW", "torch SGD", "torch AdamW"])
def test_a_state_from_a_run_that_moved_no_unit(name):
    """The loaded state has all free elements in place. Training goes on, and units move when the task ends."""
    moved, plain = mlp_pair()
    x = draws((BATCH, 6), 5)
    begin(plain, 0)
    train(plain, OPTIMIZERS[name](plain, list(plain.task_parameters())), x)
    draw_units(plain, 0)
    with torch.no_grad():
        for embedding in plain.embeddings:
            embedding[0] = -1.0  # so that no locked unit is in front
    plain.end_task()
    begin(plain, 1)
    first = OPTIMIZERS[name](plain, list(plain.task_parameters()))
    train(plain, first, x)
    moved.load_state_dict(plain.state_dict())
    second = OPTIMIZERS[name](moved, list(moved.task_parameters()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    weight = plain.body.network.linear2.weight
    assert weight.shape in [part.shape for value in first.state[weight].values() for part in tensors(value)]
    for task in (1, 2):
        for model, optimizer in ((moved, second), (plain, first)):
            train(model, optimizer, x)
        agree(moved, plain)
        for model, optimizer in ((moved, second), (plain, first)):
            draw_units(model, task)
            model.end_task()
            begin(model, task + 1)
            optimizer.add_param_group({"params": list(model.head.parameters())})
    assert not torch.equal(moved.body.network.linear2.gate.origin, plain.body.network.linear2.gate.origin)
    agree(moved, plain)


def test_a_state_of_all_is_cut_where_a_block_is_locked():
    """torch.optim.SGD without a guard keeps such a state."""
    model, _, x = second_task()
    theirs = torch.optim.SGD(model.task_parameters(), lr=0.0, momentum=0.9)
    step(model, theirs, x)
    ours = hat.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    ours.param_groups[0]["lr"] = 0.0
    optimizer_states = {p: state["momentum_buffer"].clone() for p, state in theirs.state.items()}
    model.zero_grad()
    for parameter in model.task_parameters():
        parameter.grad = torch.zeros_like(parameter)
    ours.step()
    for parameter, whole in optimizer_states.items():
        blocks = model.blocks().get(parameter, [Block()])
        parts = tensors(ours.state[parameter]["momentum_buffer"])
        for part, view in zip(parts, cut(whole, blocks), strict=True):
            torch.testing.assert_close(part, 0.9 * view)


def test_a_state_of_other_blocks_is_refused_and_nothing_moves():
    model, optimizer, x = second_task(keep=False)
    wrong = copy.deepcopy(optimizer.state_dict())
    draw_units(model, 1)
    model.end_task()
    begin(model, 2)
    optimizer = OPTIMIZERS["SGD momentum"](model, list(model.task_parameters()))
    optimizer.load_state_dict(wrong)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"state: expected tensors of .* the parts that may move, got"):
        train(model, optimizer, x, 1)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_an_optimizer_whose_state_does_not_fit_does_not_stop_a_task_from_ending():
    """For example an optimizer that still exists when an earlier checkpoint is loaded."""
    model, old, x = second_task()
    draw_units(model, 1)
    earlier = copy.deepcopy(model.state_dict())
    model.end_task()
    begin(model, 2)
    old.add_param_group({"params": list(model.head.parameters())})
    train(model, old, x)
    model.load_state_dict(earlier)
    optimizer = OPTIMIZERS["SGD momentum"](model, list(model.task_parameters()))
    train(model, optimizer, x)
    draw_units(model, 3)
    task = model.end_task()
    assert model.tasks == task + 1
    assert not model.training
    begin(model, 2)
    optimizer.add_param_group({"params": list(model.head.parameters())})
    train(model, optimizer, x)


@pytest.mark.parametrize("name", ["SGD momentum", "AdamW", "torch AdamW"])
def test_a_copy_in_the_middle_of_a_task(name):
    """The copy goes on independently: other blocks, other gradients, other places."""
    model, optimizer, x = second_task(name)
    copied, own = copy.deepcopy((model, optimizer))
    kept = [p.detach().clone() for p in model.parameters()]
    states = copy.deepcopy([list(state.items()) for state in optimizer.state.values()])
    for seed in (3, 4):
        train(copied, own, x)
        draw_units(copied, seed)
        copied.end_task()
        begin(copied, seed)
        own.add_param_group({"params": list(copied.head.parameters())})
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), kept, strict=True))
    for state, before in zip(optimizer.state.values(), states, strict=True):
        for (_, value), (_, old) in zip(state.items(), before, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(tensors(value), tensors(old), strict=True))
    for seed in (3, 4):
        train(model, optimizer, x)
        draw_units(model, seed)
        model.end_task()
        begin(model, seed)
        optimizer.add_param_group({"params": list(model.head.parameters())})
    for (name, a), b in zip(model.named_parameters(), copied.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_weight_stays_within_float16_when_blocks_change_and_no_unit_moves():
    """The block of the next task has other elements, so its largest weight must be measured anew."""
    torch.manual_seed(0)
    model = hat.HATModel(hat.models.mlp(4, (4, 4)))
    model.begin_task(2)
    weight = model.body.network.linear2.weight
    optimizer = hat.optim.SGD([weight], lr=1.0, model=model)
    for used in (1, 2):
        if used == 2:
            weight.grad = torch.zeros_like(weight)
            weight.grad[1:] = -60_000.0
            optimizer.step()
        with torch.no_grad():
            for embedding in model.embeddings:
                embedding.copy_((torch.arange(4) < used).float() - 0.5)
        model.end_task()
        model.begin_task(2)
    weight.grad = torch.zeros_like(weight)
    weight.grad[1, 2:] = -10_000.0
    optimizer.step()
    assert weight.abs().max() <= LARGEST


@pytest.mark.parametrize("ends", [False, True], ids=["in a task", "while one ends"])
@pytest.mark.parametrize("name", ["SGD", "SGD momentum", "AdamW"])
def test_a_parameter_that_a_user_freezes_for_a_while(name, ends):
    """Only what the model has frozen for good leaves the optimizer."""
    model, optimizer, x = second_task(name)
    weight = model.body.network.linear2.weight
    before = weight.detach().clone()
    weight.requires_grad_(False)
    train(model, optimizer, x)
    assert torch.equal(weight, before)
    if ends:
        draw_units(model, 1)
        model.end_task()
        begin(model, 2)
        optimizer.add_param_group({"params": list(model.head.parameters())})
        before = weight.detach().clone()
    weight.requires_grad_(True)
    train(model, optimizer, x)
    assert not torch.equal(weight, before)


# ---------------------------------------------------------------- a thousand tasks


class Trace(TorchDispatchMode):
    """Every operation of PyTorch and the shapes of what it is given."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        flat = torch.utils._pytree.tree_leaves((args, kwargs))
        self.found.append((str(func), [tuple(t.shape) for t in flat if isinstance(t, torch.Tensor)]))
        return func(*args, **(kwargs or {}))


def work(model, optimizer, x):
    """(operations, calls of Python functions) of one step, as of the second one."""
    one_step(model, optimizer, x)
    with Trace() as trace:
        one_step(model, optimizer, x)
    calls = []
    gc.collect()
    gc.disable()  # what it collects of other tests calls functions, too
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        one_step(model, optimizer, x)
    finally:
        sys.setprofile(None)
        gc.enable()
    return trace.found, calls


def one_step(model, optimizer, x):
    model.anneal(0.005)
    step(model, optimizer, x)


def with_tasks(model, count):
    """Load a state in which the last task is repeated many times, as a checkpoint is loaded."""
    more, state = count - model.tasks, model.state_dict()
    for name in [name for name in state if name.endswith("masks")]:
        state[name] = torch.cat([state[name], state[name][-1:].expand(more, -1)])
    for task in range(model.tasks, count):
        for part in ("weight", "bias"):
            state[f"heads.{task}.{part}"] = state[f"heads.{model.tasks - 1}.{part}"].clone()
    facts = {"learning": False, "classes": [["0", "1", "2"]] * count, "forgotten": []}
    state["_extra_state"] = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
    model.load_state_dict(state)


def test_the_step_of_the_thousandth_task_does_what_that_of_the_third_does():
    """Not an operation, a shape or a call of a function more: nothing that grows is touched."""
    torch.manual_seed(0)
    model = hat.HATModel(hat.models.mlp(4, (8,), input_dropout=0.0, dropout=0.0))
    x, found, first = draws((BATCH, 4), 5).float(), {}, None
    for task in [*range(100), *range(990, 1000)]:
        if task == 990:
            with_tasks(model, task)
        model.begin_task(3)
        if task in (2, 999):
            for name in ("SGD momentum", "torch AdamW"):
                found[name, task] = work(model, OPTIMIZERS[name](model, list(model.task_parameters())), x)
        with torch.no_grad():
            used = torch.arange(8) < (2 if task == 0 else 4)
            model.embeddings[0].copy_((used.float() - 0.5)[model.body.network.linear1.gate.origin])
        assert model.end_task() == task
        first = model(x, task=0) if first is None else first
    for name in ("SGD momentum", "torch AdamW"):
        assert found[name, 2] == found[name, 999]
    gate = model.gates["gates.linear1"]
    assert (model.tasks, gate.tasks, gate.locked, gate.in_order) == (1000, 1000, 4, True)
    assert torch.equal(model(x, task=0), first)
