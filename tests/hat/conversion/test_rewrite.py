"""What a graph is after its gates were put in."""

import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.units.composed import Gated
from tests.hat.conversion.checks import convert
from tests.hat.conversion.zoo import NETWORKS, Net

X = torch.randn(4, 5)


def of(forward, **parts):
    return hat.convert(Net(forward, **parts), X, head=None).body.network


def test_a_layer_does_all_of_layer_activation_and_dropout():
    network = of(
        lambda s, x: s.two(F.dropout(F.gelu(s.one(x)), 0.2, s.training)), one=nn.Linear(5, 6), two=nn.Linear(6, 4)
    )
    assert isinstance(network.one, hat.HATLinear)
    assert (network.one.activation, network.one.dropout) == ("gelu", 0.2)
    assert [node.target for node in network.graph.nodes if node.op == "call_module"] == ["one", "two"]


def test_an_activation_that_it_does_not_know_stays():
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


def test_what_is_split_is_gated_whole():
    network = of(lambda s, x: s.two(torch.cat(s.one(x).relu().chunk(2, 1)[::-1], 1)), one=nn.Linear(5, 6),
                 two=nn.Linear(6, 4))  # fmt: skip
    assert sum(isinstance(m, Gated) for m in network.modules()) <= 1


def test_norms_are_every_tasks_own_and_gated_in_their_affine_part():
    model = convert(*NETWORKS["normalised"](), head=None)
    norms = [m for m in model.body.modules() if isinstance(m, hat.HATBatchNorm1d)]
    assert [norm.activation for norm in norms] == ["relu"]
    assert norms[0].gate is not None


def test_nothing_of_the_plain_network_is_left_over():
    for name in ("transformer_fused", "resnet", "scales"):
        network = convert(*NETWORKS[name](), head=None).body.network
        assert not [n for n in network.graph.nodes if n.op == "get_attr" and not str(n.target).startswith("constant")]
        assert not [m for m in network.modules() if type(m) in (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm)]
