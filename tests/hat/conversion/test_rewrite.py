"""The graph of a converted network: its gates and gated layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.layers.dropout import Dropout
from hat.units.composed import Gated
from hat.units.state import OPEN
from tests.hat.conversion.checks import convert, same_function
from tests.hat.conversion.zoo import NETWORKS, Net

X = torch.randn(4, 5)


def of(forward, **parts):
    return hat.convert(Net(forward, **parts), X, head=None).body.network


def test_a_layer_takes_in_its_activation_and_dropout():
    network = of(
        lambda s, x: s.two(F.dropout(F.gelu(s.one(x)), 0.2, s.training)), one=nn.Linear(5, 6), two=nn.Linear(6, 4)
    )
    assert isinstance(network.one, hat.HATLinear)
    assert (network.one.activation, network.one.dropout) == ("gelu", 0.2)
    assert [node.target for node in network.graph.nodes if node.op == "call_module"] == ["one", "two"]


POOLS = {
    "max": lambda x: F.max_pool2d(x, 2),
    "max, as an operator": lambda x: torch.max_pool2d(x, 3, 1, 1, 2),
    "max, its edges kept": lambda x: F.max_pool2d(x, (2, 3), padding=(1, 0), ceil_mode=True),
    "average": lambda x: F.avg_pool2d(x, 3, 2, 1, False, False),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, 2),
    "a module": nn.MaxPool2d(3, 2, ceil_mode=True),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
def test_a_convolution_takes_in_its_activation_dropout_and_pool(pool):
    x = torch.randn(2, 3, 9, 8)
    inputs = pool(torch.zeros(2, 4, 7, 6)).flatten(1).shape[1]
    parts = {"one": nn.Conv2d(3, 4, 3), "two": nn.Linear(inputs, 5), "drop": nn.Dropout(0.2)}
    if isinstance(pool, nn.Module):
        parts["pool"] = pool
    plain = Net(lambda s, x: s.two(pool(s.drop(F.gelu(s.one(x)))).flatten(1)), **parts)
    network = same_function(plain, (x,)).body.network
    assert (network.one.activation, network.one.dropout) == ("gelu", 0.2)
    assert [node.target for node in network.graph.nodes if node.op == "call_module"] == ["one", "two"]
    h = F.gelu(F.conv2d(x, plain.one.weight, plain.one.bias))
    with network.one.gate.state.answering(OPEN):
        assert torch.equal(network.one.eval()(x), pool(h))


def test_a_pool_that_is_called_twice_stays_for_the_other_call():
    pool = nn.MaxPool2d(2)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool, nn.Conv2d(4, 4, 1), nn.ReLU(), pool, nn.Flatten())
    network = hat.convert(plain, torch.randn(2, 3, 10, 10), head=None).body.network
    layers = [m for m in network.modules() if isinstance(m, hat.HATConv2d)]
    assert len({layer.pool for layer in layers} | {pool}) == 3
    assert [type(m) for m in network.children()] == [hat.HATConv2d, hat.HATConv2d, nn.Flatten]


def test_nodes_in_another_order_stay():
    """A layer does not take in an activation behind a pool, nor a pool whose input has another reader."""
    x = torch.randn(2, 3, 9, 8)
    parts = {"one": nn.Conv2d(3, 4, 3), "two": nn.Conv2d(4, 5, 1)}
    network = hat.convert(
        Net(lambda s, x: s.two(F.relu(F.max_pool2d(s.one(x), 2))), **parts), x, head=None
    ).body.network
    assert (network.one.activation, network.one.pool) == ("identity", None)

    def read_twice(s, x):
        h = F.relu(s.one(x))
        return s.two(F.max_pool2d(h, 1)) + s.two(h)

    network = hat.convert(Net(read_twice, **parts), x, head=None).body.network
    assert network.one.pool is None


def test_a_dropout_alone_becomes_the_fast_dropout():
    plain = nn.Sequential(nn.Dropout(0.2), nn.Dropout(1.0), nn.Linear(5, 4))
    network = hat.convert(plain, X, head=None).body.network
    assert [type(m) for m in network.children()] == [Dropout, nn.Dropout, hat.HATLinear]
    assert network.get_submodule("0").p == 0.2


def test_an_unknown_activation_stays():
    network = of(lambda s, x: s.two(F.leaky_relu(s.one(x), 0.3)), one=nn.Linear(5, 6), two=nn.Linear(6, 4))
    assert network.one.gate is None
    assert [type(m) for m in network.modules() if isinstance(m, Gated)] == [Gated]


def test_a_layer_that_is_called_twice_applies_no_gate():
    network = of(lambda s, x: s.two(F.relu(s.one(F.relu(s.one(x))))), one=nn.Linear(5, 5), two=nn.Linear(5, 4))
    assert network.one.gate is None
    assert sum(isinstance(m, Gated) for m in network.modules()) == 2


def test_a_sum_is_gated_once():
    network = of(lambda s, x: s.two(F.relu(s.one(x) + s.other(x))), one=nn.Linear(5, 6), other=nn.Linear(5, 6),
                 two=nn.Linear(6, 4))  # fmt: skip
    (gated,) = [m for m in network.modules() if isinstance(m, Gated)]
    assert gated.activation == "relu"


def test_a_value_that_is_split_is_gated_before_the_split():
    network = of(lambda s, x: s.two(torch.cat(s.one(x).relu().chunk(2, 1)[::-1], 1)), one=nn.Linear(5, 6),
                 two=nn.Linear(6, 4))  # fmt: skip
    assert sum(isinstance(m, Gated) for m in network.modules()) <= 1


def test_norms_are_per_task_and_gated_in_their_affine_part():
    model = convert(*NETWORKS["normalised"](), head=None)
    norms = [m for m in model.body.modules() if isinstance(m, hat.HATBatchNorm1d)]
    assert [norm.activation for norm in norms] == ["relu"]
    assert norms[0].gate is not None


def test_unused_parameters_and_buffers_are_deleted():
    for name in ("transformer_fused", "resnet", "scales"):
        network = convert(*NETWORKS[name](), head=None).body.network
        assert not [n for n in network.graph.nodes if n.op == "get_attr" and not str(n.target).startswith("constant")]
        assert not [m for m in network.modules() if type(m) in (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm)]
