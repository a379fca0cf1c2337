"""`hat.export`: a plain network that computes the same as the model for one or several tasks, with only their units."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.exporting import plain
from hat.layers.gated import GatedLayer
from hat.units.composed import GatedAnywhere
from tests.hat.conversion.checks import draw_units
from tests.hat.exporting.models import (
    BY_HAND,
    CONVERTED,
    alexnet,
    by_hand,
    converted,
    example,
    learned,
    mlp,
    normed,
    transformer,
)
from tests.hat.nets import ACTIVATIONS, Transformer, wired

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]
GATED = (hat.Gate, hat.PerTask, GatedLayer, GatedAnywhere)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@torch.no_grad()
def same(model, network, x, of, dtype=torch.float32, **options):
    """Check that an exported network gives the same logits, and that no module of it is gated."""
    expected = model(x, task=of)
    assert expected.dtype == dtype
    bound = TOLERANCE[dtype] * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(network(x, **options), expected, rtol=0, atol=bound)
    assert not [module for module in network.modules() if isinstance(module, GATED)]


def shapes(network):
    return [tuple(p.shape) for p in network.parameters()]


# ---------------------------------------------------------------- what it computes


@pytest.mark.parametrize("make", [*CONVERTED, *BY_HAND])
def test_one_task_and_all(make):
    model, x = make()
    before = copy.deepcopy(model.state_dict())
    for task in range(2):
        same(model, hat.export(model, task, **example(make, x)), x, task)
    both = hat.export(model, tasks=[1, 0], **example(make, x))
    assert both.tasks == (1, 0)
    for task in (0, 1, 0):
        same(model, both, x, task, task=task)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [alexnet, normed, converted, transformer])
def test_other_dtypes(make, dtype):
    model, x = make(dtype=dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    network = hat.export(model, task=1, **example(make, x))
    same(model, network, x, 1, dtype)
    assert {p.dtype for p in network.parameters()} == {dtype}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_behind_units_that_go_and_units_that_stay(activation):
    model, x = mlp(activation)
    same(model, hat.export(model, task=1), x, 1)
    body = wired(hat.HATLinear(5, 8, activation=activation), nn.Softmax(-1), hat.HATLinear(8, 6))
    model = learned(body)
    network = hat.export(model, task=1, example_input=x)
    assert network.body[0].get_submodule("" if activation == "identity" else "0").out_features == 8
    same(model, network, x, 1)


@pytest.mark.parametrize("make", [mlp, normed, converted])
def test_soft_masks(make):
    model, x = make(config=hat.GateConfig(mask_mode="published", s_max=3.0))
    assert all(((gate.masks > 0) & (gate.masks < 1)).any() for gate in model.gates.values())
    same(model, hat.export(model, task=0, **example(make, x)), x, 0)
    both = hat.export(model, tasks=[0, 1], **example(make, x))
    for task in range(2):
        same(model, both, x, task, task=task)


def test_a_task_that_uses_no_unit_answers_with_its_bias():
    model = learned(wired(hat.HATLinear(5, 8), hat.HATLinear(8, 6)), tasks=1)
    model.begin_task(2)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.fill_(-1)
    model.end_task()
    x = torch.randn(3, 5)
    network = hat.export(model, task=1, example_input=x)
    same(model, network, x, 1)
    assert torch.equal(network(x), model.heads[1].bias.expand(3, -1))
    assert shapes(network) == [(1, 5), (1,), (1, 1), (1,), (2, 1), (2,)]


@pytest.mark.parametrize("make", [alexnet, converted])
def test_a_model_that_learns(make):
    model, x = make()
    expected = hat.export(model, task=1)(x)
    model.begin_task(3)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        model.anneal(0.5)
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    grads = [p.grad for p in model.parameters()]
    network = hat.export(model, task=1)
    assert model.training
    assert model.learning
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    torch.testing.assert_close(network(x), expected)
    with pytest.raises(ValueError, match="task: expected finished tasks, 0 to 1, got 2"):
        hat.export(model, task=2)


@pytest.mark.parametrize("make", [alexnet, converted, transformer])
def test_no_random_number_is_drawn(make):
    model, x = make()
    before = torch.get_rng_state()
    hat.export(model, task=0, **example(make, x))
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- what is left


def on(model, *units):
    """Learn a task that uses these units, numbered by their first places."""
    model.begin_task(2)
    with torch.no_grad():
        for gate, used in zip(model.gates.values(), units, strict=True):
            mask = torch.tensor([unit in used for unit in gate.origin.tolist()])
            gate.embedding.copy_(torch.where(mask, 1.0, -1.0))
    model.end_task()
    return model.eval()


def test_units_are_gone_from_all_layers_that_meet_them():
    model = on(hat.HATModel(hat.models.alexnet((3, 16, 16), channels=(6, 8, 8), hidden=(12, 10))),
               {1, 5}, {0, 2, 7}, {4}, {3, 8, 9, 11}, {0, 9})  # fmt: skip
    network = hat.export(model, task=0)
    kernel = model.body.network.conv1.weight.shape[-1]
    expected = [(2, 3, kernel, kernel), (2,), (3, 2, 1, 1), (3,), (1, 3, 2, 2), (1,), (4, 1), (4,), (2, 4), (2,)]
    assert shapes(network) == [*expected, (2, 2), (2,)]
    assert [type(module) for module in network.body.conv1] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert isinstance(network, hat.TaskNetwork)
    assert (network.task, network.classes) == (0, ("0", "1"))


def test_a_flatten_repeats_units_and_a_norm_follows():
    layers = [hat.HATConv2d(2, 6, 3, activation="identity"), hat.HATBatchNorm2d(6), nn.ReLU(), nn.Flatten()]
    model = on(hat.HATModel(wired(*layers, hat.HATLinear(6 * 4, 7))), {0, 4}, {6})
    x = torch.randn(3, 2, 4, 4)
    network = hat.export(model, task=0, example_input=x)
    assert shapes(network) == [(2, 2, 3, 3), (2,), (2,), (2,), (1, 8), (1,), (2, 1), (2,)]
    assert network.body[1].running_mean.shape == (2,)
    same(model, network, x, 0)


@pytest.mark.parametrize("per_head", [False, True])
def test_heads_and_dimensions_of_heads_go(per_head):
    x = torch.randint(11, (3, 5))
    network = Transformer(nn.Embedding(11, 12), 12, 3, 5)
    model = hat.convert(network, x, head=None, per_head=per_head)
    dimensions = {0, 1, 4, 8}  # two, one and one dimension of the three heads
    used = {12: {0, 3, 4, 10}, 13: {5, 7}} if per_head else {13: {5, 7}}
    gates = model.gates
    units = [used.get(gate.units, {2}) for gate in gates.values()]
    if not per_head:
        units = [{0, 3, 4, 10} if name == "gates.tokens" else dimensions if gate.units == 12 else used[13]
                 for name, gate in gates.items()]  # fmt: skip
    on(model, *units)
    exported = hat.export(model, task=0)
    same(model, exported, x, 0)
    attention = exported.body.blocks.get_submodule("0.1")
    sizes = [tuple(getattr(attention, name).weight.shape) for name in ("query", "value", "out")]
    if per_head:
        assert sizes == [(4, 4), (4, 4), (4, 4)]
    else:
        assert sizes == [(6, 4), (6, 4), (4, 6)]  # every head has as many dimensions as the fullest head
    assert exported.body.tokens.weight.shape == (11, 4)
    assert exported.head.in_features == 4


def test_tasks_have_the_units_of_all_of_them():
    model = hat.HATModel(hat.models.mlp(5, (8, 6)))
    on(model, {0, 1}, {2})
    on(model, {1, 2, 3}, {2, 3})
    on(model, {7}, {5})
    network = hat.export(model, tasks=[0, 1])
    assert shapes(network)[:4] == [(4, 5), (4,), (2, 4), (2,)]
    assert shapes(hat.export(model, tasks=[2, 0, 1]))[:4] == [(5, 5), (5,), (3, 5), (3,)]
    assert network.classes == {0: ("0", "1"), 1: ("0", "1")}
    for task in range(2):
        same(model, network, torch.randn(3, 5), task, task=task)


def test_tensors_that_are_the_same_for_all_tasks_are_there_once():
    model = hat.HATModel(hat.models.mlp(5, (8, 6)))
    on(on(model, {0, 1}, {2}), {0, 1}, {3})
    network = hat.export(model, tasks=[0, 1])
    assert isinstance(network.body.linear1, nn.Sequential)
    assert not [module for module in network.body.linear1.modules() if isinstance(module, plain.Choice)]
    assert [type(module) for module in network.body.linear2] == [nn.Linear, nn.ReLU, plain.Choice]


def test_a_layer_that_is_used_twice_stays_one():
    first, again = hat.HATLinear(5, 6), hat.HATLinear(6, 6)
    model = learned(wired(first, again, again))
    x = torch.randn(3, 5)
    network = hat.export(model, task=1, example_input=x)
    same(model, network, x, 1)
    assert network.body[1] is network.body[2]
    assert len(shapes(network)) == 6


def test_a_unit_that_overflows_stays_off():
    body = wired(hat.HATLinear(5, 8, activation="gelu"), nn.Softmax(-1), hat.HATLinear(8, 6))
    model = on(hat.HATModel(body), {0, 1}, set(range(6)))
    with torch.no_grad():
        model.body[0].bias[int(model.gates["0.gate"].origin.argmax())] = float("inf")
    x = torch.randn(3, 5)
    same(model, hat.export(model, task=0, example_input=x), x, 0)


@pytest.mark.parametrize(("queries", "values"), [(3, 5), (5, 3), (4, 4)])
def test_attention_of_heads_of_two_widths(queries, values):
    q, k, v = torch.randn(2, 3, 6, queries), torch.randn(2, 3, 7, queries), torch.randn(2, 3, 7, values)
    for options in ({}, {"scale": 0.3}, {"is_causal": True}, {"attn_mask": torch.rand(6, 7) < 0.7}):
        expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), **options)
        torch.testing.assert_close(plain.attention(q, k, v, **options), expected.float())
    drops = plain.FusedAttention(0.5)
    assert not torch.equal(drops(q, k, v), drops(q, k, v))
    assert torch.equal(drops.eval()(q, k, v), plain.attention(q, k, v))


@pytest.mark.parametrize("count", [3, 6, 9])
@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_a_norm_over_another_number_of_units(shape, count):
    """The count may be larger than the number of units (missing units are 0), or smaller (superfluous units are 0)."""
    x = torch.randn(4, *shape, dtype=torch.float64)
    x[:, count:] = 0
    weight, bias = torch.rand(shape).double(), torch.rand(shape).double()
    whole = F.pad(x, (0, 0) * (len(shape) - 1) + (0, max(count - 6, 0)))[:, :count]
    expected = F.layer_norm(whole, whole.shape[1:])[:, :6]

    def counted(*affine):
        return plain.CountedLayerNorm(len(shape), count, 1e-5, *affine)(x)[:, :count]

    torch.testing.assert_close(counted(None, None), expected)
    torch.testing.assert_close(counted(weight, None), expected * weight[:count])
    torch.testing.assert_close(counted(weight, bias), expected * weight[:count] + bias[:count])


# ---------------------------------------------------------------- what is refused


class Doubled(hat.HATModel):
    def forward(self, x, task=None):
        return 2 * super().forward(x, task)


class Shifted(hat.HATLinear):
    def forward(self, x):
        return super().forward(x) + 1


class Own(hat.PerTask):
    def __init__(self):
        super().__init__()
        self._keep("value", torch.ones(6), learned=True)

    def forward(self, x):
        return x * self.of_task("value")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "task: expected either a task or `tasks`, got neither"),
        ({"task": 0, "tasks": [0]}, ValueError, "task: expected either a task or `tasks`, got both"),
        ({"task": 2}, ValueError, "task: expected finished tasks, 0 to 1, got 2"),
        ({"task": -1}, ValueError, "task: expected finished tasks, 0 to 1, got -1"),
        ({"tasks": [0, 5]}, ValueError, "task: expected finished tasks, 0 to 1, got 5"),
        ({"tasks": []}, ValueError, "tasks: expected at least one, each once, got []"),
        ({"tasks": [1, 1]}, ValueError, "tasks: expected at least one, each once, got [1, 1]"),
        ({"tasks": 1}, TypeError, "tasks: expected a sequence of ints, got int"),
        ({"tasks": ["0"]}, TypeError, "task: expected an int, got str"),
        ({"task": True}, TypeError, "task: expected an int, got bool"),
        ({"task": 1.0}, TypeError, "task: expected an int, got float"),
    ],
)
def test_wrong_tasks(options, error, message):
    model, _ = mlp()
    with pytest.raises(error) as caught:
        hat.export(model, **options)
    assert str(caught.value) == message


def test_another_object_is_no_model():
    with pytest.raises(TypeError, match=r"model: expected a hat\.HATModel, got Linear"):
        hat.export(nn.Linear(2, 2), task=0)


def test_a_task_that_the_network_was_not_exported_for():
    model, x = mlp()
    with pytest.raises(ValueError, match=r"task: expected one of \(1,\), got 0"):
        hat.export(model, tasks=[1])(x, task=0)


@pytest.mark.parametrize("make", BY_HAND)
def test_a_body_wired_by_hand_needs_an_example(make):
    with pytest.raises(ValueError, match="example_input: expected a tensor or a tuple, because the body is not"):
        hat.export(make()[0], task=0)


def test_a_hook():
    wired_by_hand = learned(wired(hat.HATLinear(5, 8), hat.HATLinear(8, 6)))
    wired_by_hand.body[0].register_forward_hook(lambda module, inputs, output: output + 1)
    model, x = mlp()
    model.body.network.linear1.register_forward_hook(lambda module, inputs, output: output + 1)
    for hooked in (wired_by_hand, model):
        with pytest.raises(hat.ExportError, match="task 0: the exported network differs by"):
            hat.export(hooked, task=0, example_input=x)


def test_models_and_layers_with_a_forward_of_their_own():
    model = Doubled(wired(hat.HATLinear(5, 8), hat.HATLinear(8, 6)))
    on(model, {0}, {1, 2})
    with pytest.raises(hat.ExportError, match="task 0: the exported network differs by"):
        hat.export(model, task=0, example_input=torch.randn(3, 5))
    model = learned(wired(Shifted(5, 8), hat.HATLinear(8, 6)))
    with pytest.raises(hat.ExportError, match="Shifted: nobody knows what its own forward computes"):
        hat.export(model, task=0, example_input=torch.randn(3, 5))
    model = learned(wired(hat.HATLinear(5, 6), Own()))
    with pytest.raises(hat.ExportError, match="Own: nobody knows what it computes for one task"):
        hat.export(model, task=0, example_input=torch.randn(3, 5))


def test_a_network_that_computes_with_the_number_of_units():
    """A gate is set complete by hand, but a module computes a mean over its units."""

    class Body(nn.Module):
        """Divides the stream by a number that depends on its number of units."""

        def __init__(self):
            super().__init__()
            self.tokens = hat.HATEmbedding(11, 12)
            stream = self.tokens.gate
            self.linear = hat.HATLinear(12, 12, gate=stream, inputs=stream)

        def forward(self, x):
            x = self.tokens(x)
            x = x + self.linear(x * (1 + x.square().mean(-1, keepdim=True)).rsqrt())
            return x.mean(1)

    body = Body()
    model, x = by_hand(body, body.tokens.gate, features=12), torch.randint(11, (3, 5))
    with pytest.raises(hat.ExportError, match="more than rounding; units stay whose gate is not `complete`"):
        hat.export(model, task=0, example_input=x)
    body.tokens.gate.complete = False
    same(model, hat.export(model, task=0, example_input=x), x, 0)


def test_shrinking_that_blames_nobody_is_refused(monkeypatch):
    model, _ = converted()
    monkeypatch.setattr("hat.resizing.shrink.misfits", lambda *given: torch.empty(0, dtype=torch.int64))
    with pytest.raises(hat.ExportError, match="no unit explains it"):
        hat.export(model, task=0)


@pytest.mark.parametrize("make", [mlp, alexnet, normed])
def test_an_exported_network_shares_nothing(make):
    model, x = make()
    network = hat.export(model, task=1, **example(make, x))
    memory = {p.data_ptr() for p in (*model.parameters(), *model.buffers())}
    assert not memory & {p.data_ptr() for p in (*network.parameters(), *network.buffers())}
    expected = network(x)
    model.begin_task(2)
    draw_units(model, 7)
    model.end_task()
    assert torch.equal(network(x), expected)


# ---------------------------------------------------------------- later in the life of a model


@pytest.mark.parametrize("make", [alexnet, converted])
def test_export_of_a_model_that_has_grown(make):
    model, x = make()
    before = [shapes(hat.export(model, task)) for task in range(2)]
    assert hat.grow(model, 4)
    model.begin_task(2)
    draw_units(model, 2)
    model.end_task()
    for task in range(3):
        same(model, hat.export(model, task), x, task)
    assert [shapes(hat.export(model, task)) for task in range(2)] == before  # no unit that has joined


@pytest.mark.parametrize("make", [alexnet, converted])
def test_export_of_a_model_that_has_forgotten(make):
    model, x = make()
    hat.forget(model, task=0)
    same(model, hat.export(model, task=1), x, 1)
    with pytest.raises(ValueError, match="task: expected"):
        hat.export(model, task=0)
    with pytest.raises(ValueError, match="task: expected"):
        hat.export(model, tasks=[1, 0])
