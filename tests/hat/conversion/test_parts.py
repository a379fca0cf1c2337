"""Attention, hidden layers, gated linear units, squeeze and excite: compared with a computation by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hat.conversion.api import convert_body
from hat.units.locks import sides, unlocked
from hat.units.state import Finished, PerSample
from tests.hat.nets import Attention, Squeezed, Switched, anneal, answer_for, same_gradients, soft, use


def attention(network, x, gates):
    """Attention with one gate for queries and keys, one for values and one for outputs; or one gate for whole heads."""
    stem, part = network
    h = stem(x) * gates["0"]
    products = gates["1_query"].repeat_interleave(6 // len(gates["1_query"]))
    values = gates.get("1_value", products)
    q, k, v = part.query(h) * products, part.key(h) * products, part.value(h) * values
    width, outputs = 6 // part.heads, []
    for head in range(part.heads):
        dims = slice(head * width, (head + 1) * width)
        scores = q[..., dims] @ k[..., dims].transpose(1, 2) / math.sqrt(width)
        outputs.append(scores.softmax(-1) @ v[..., dims])
    return part.out(torch.cat(outputs, -1)) * gates["1_out"]


def hidden(network, x, gates):
    stem, (up, _, down) = network
    return down(F.gelu(up(stem(x) * gates["0"])) * gates["1_0"]) * gates["1_2"]


def switched(network, x, gates):
    """The product of both halves of a hidden unit is gated, once."""
    stem, part = network
    h = stem(x) * gates["0"]
    return part.down(part.up(h) * F.silu(part.switch(h)) * gates["1_up"]) * gates["1_down"]


def squeezed(network, x, gates):
    """The channels are gated before the squeeze, and not again."""
    h = torch.relu(network.one(x)) * gates["one"][:, None, None]
    scale = network.excite(torch.relu(network.squeeze(h.mean((2, 3)))) * gates["squeeze"])
    return torch.relu(network.two(h * torch.sigmoid(scale)[:, :, None, None])).mean((2, 3)) * gates["two"]


def behind_a_stem(part):
    return nn.Sequential(nn.Linear(5, 6), part)


PARTS = {
    "attention": (lambda: behind_a_stem(Attention(6, 3)), (2, 4, 5), attention, {}),
    "heads": (lambda: behind_a_stem(Attention(6, 3)), (2, 4, 5), attention, {"per_head": True}),
    "hidden": (
        lambda: behind_a_stem(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))),
        (2, 4, 5),
        hidden,
        {},
    ),
    "switched": (lambda: behind_a_stem(Switched(6, 8)), (2, 4, 5), switched, {}),
    "squeezed": (lambda: Squeezed(6, 4), (2, 1, 5, 5), squeezed, {}),
}
EVERY = pytest.mark.parametrize("name", PARTS)


def make(name):
    """(the network, its gated body around the same parameters, inputs, what it computes by hand), in float64."""
    plain, shape, by_hand, options = PARTS[name]
    torch.manual_seed(0)
    network, x = plain().double(), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network, convert_body(network, x, head=None, **options), x, by_hand


def masks(body):
    """Finished tasks in which some units of every gate are off."""
    for gate in body.gates.values():
        use(gate, [int(unit % 3 != 1) for unit in range(gate.units)])
    return {name: gate.masks[0].double() for name, gate in body.gates.items()}


@EVERY
def test_gradients_of_a_computation_by_hand(name):
    network, body, x, by_hand = make(name)
    anneal(body, 0.005)
    x.requires_grad_()
    expected = by_hand(network, x, {name: soft(gate) for name, gate in body.gates.items()})
    # Without the bias of the keys: if no gate is between, it adds the same number to all products of a query.
    leaves = [x, *(parameter for own, parameter in network.named_parameters() if not own.endswith("key.bias"))]
    same_gradients(leaves, body(x), expected)


@EVERY
def test_weights_of_units_that_are_off_do_not_matter(name):
    """Weights of units that are off may be NaN. In the squeezed network they are finite, because a scale must be."""
    network, body, x, by_hand = make(name)
    expected = by_hand(network, x, masks(body))
    answer_for(body, Finished(0))
    y = body(x)
    torch.testing.assert_close(y, expected)
    with torch.no_grad():
        for parameter, sides_of_parameter in sides(body).items():
            off = sides_of_parameter.rows.free.repeat_interleave(sides_of_parameter.rows.repeat).bool()
            parameter[off] = parameter[off] + 1 if name == "squeezed" else float("nan")
    assert torch.equal(body(x), y)


@EVERY
def test_a_task_per_sample(name):
    _, body, x, _ = make(name)
    for gate in body.gates.values():
        gate.load_state_dict({**gate.state_dict(), "masks": torch.eye(2).repeat(1, gate.units)[:, : gate.units]})
    first, second = (answer_for(body, Finished(task))(x) for task in (0, 1))
    assert not torch.equal(first, second)
    y = answer_for(body, PerSample(torch.tensor([1, 0])))(x)
    torch.testing.assert_close(y, torch.stack([second[0], first[1]]))


@EVERY
def test_every_parameter_lies_along_its_gates(name):
    _, body, _, _ = make(name)
    assert unlocked(body) == {}
    sides_by_parameter = sides(body)
    columns = {
        "attention": {"query": "0", "key": "0", "value": "0", "out": "1_value"},
        "heads": {"query": "0", "key": "0", "value": "0", "out": "1_query"},
        "hidden": {"0": "0", "2": "1_0"},
        "switched": {"up": "0", "switch": "0", "down": "1_up"},
        "squeezed": {"squeeze": "one", "excite": "squeeze", "two": "one"},
    }[name]
    rows = {"key": "1_query", "value": "1_query", "switch": "1_up", "excite": "one"}
    rows |= {"value": "1_value"} if name == "attention" else {}
    for layer, inputs in columns.items():
        path = layer if name == "squeezed" else f"1.{layer}"
        weight = body.network.get_submodule(path).weight
        assert sides_by_parameter[weight].columns.free is body.gates[inputs].free
        assert sides_by_parameter[weight].rows.free is body.gates[rows.get(layer, path.replace(".", "_"))].free


@EVERY
def test_locked_blocks_have_no_gradient_and_the_rest_has_the_same(name):
    _, body, x, _ = make(name)
    anneal(body, 0.005)
    weights = [parameter for parameter in sides(body) if parameter.dim() > 1]
    whole = torch.autograd.grad(body(x).square().sum(), weights)
    for gate in body.gates.values():
        use(gate, [int(unit < gate.units // 2) for unit in range(gate.units)])
    got, sides_by_weight = torch.autograd.grad(body(x).square().sum(), weights), sides(body)
    left_out = 0
    for weight, gradient, whole_gradient in zip(weights, got, whole, strict=True):
        moves = torch.zeros(weight.shape, dtype=torch.bool)
        for block in sides_by_weight[weight].blocks(weight):
            moves[block.where] |= True
        torch.testing.assert_close(gradient, torch.where(moves, whole_gradient, 0.0))
        assert not moves.all()
        left_out += int(whole_gradient[~moves].count_nonzero())
    assert left_out


def test_units_of_a_head_stay_in_the_head():
    _, body, _, _ = make("attention")
    for name in ("1_query", "1_value"):
        numbers = body.gates[name].segments
        assert len(numbers.unique()) == 3
        assert torch.equal(numbers[::2], numbers[1::2])
    assert body.gates["0"].segments is body.gates["1_out"].segments is None
    assert all(body.complete().values())
    _, body, _, _ = make("heads")
    assert body.gates["1_query"].units == 3
