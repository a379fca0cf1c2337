"""Functions with parameters become layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.conversion.modular import make_modular
from hat.tracing.trace import trace
from hat.units.state import OPEN
from tests.hat.conversion.zoo import Net, parameter

CASES = {
    "linear": (lambda s, x: F.linear(x, s.weight, s.bias), {"weight": (3, 5), "bias": (3,)}, (4, 5), nn.Linear),
    "conv2d": (
        lambda s, x: F.conv2d(x, s.weight, s.bias, 2, 1, 1, 2),
        {"weight": (6, 2, 3, 3), "bias": (6,)},
        (2, 4, 6, 6),
        nn.Conv2d,
    ),
    "conv_transpose1d": (
        lambda s, x: F.conv_transpose1d(x, s.weight, stride=2, groups=2, output_padding=1),
        {"weight": (4, 3, 3)},
        (2, 4, 6),
        nn.ConvTranspose1d,
    ),
    "layer_norm": (
        lambda s, x: F.layer_norm(x, (5,), s.weight, s.bias, 1e-3),
        {"weight": (5,), "bias": (5,)},
        (4, 5),
        nn.LayerNorm,
    ),
    "group_norm": (
        lambda s, x: F.group_norm(x, 2, s.weight, s.bias),
        {"weight": (4,), "bias": (4,)},
        (2, 4, 3),
        nn.GroupNorm,
    ),
    "rms_norm": (lambda s, x: F.rms_norm(x, (5,), s.weight, 1e-3), {"weight": (5,)}, (4, 5), nn.RMSNorm),
}


@pytest.mark.parametrize("name", CASES)
def test_a_function_becomes_its_layer(name):
    forward, shapes, shape, kind = CASES[name]
    torch.manual_seed(0)
    module = Net(forward, **{key: parameter(*size) for key, size in shapes.items()})
    for p in module.parameters():
        nn.init.normal_(p)
    x = torch.randn(shape)
    traced = trace(module, (x,))
    network = traced.graph_module
    make_modular(network, dict(traced.values))
    network.recompile()
    (layer,) = [m for m in network.modules() if type(m) is kind]
    assert layer.weight is module.weight
    assert layer.bias is getattr(module, "bias", None) if name != "rms_norm" else True
    assert torch.equal(network(x), module(x))
    assert not [node for node in network.graph.nodes if node.op == "get_attr"]


def test_a_weight_that_is_computed_stays_a_function():
    module = Net(lambda s, x: F.linear(x, s.weight * 2), weight=nn.Parameter(torch.randn(3, 5)))
    traced = trace(module, (torch.randn(4, 5),))
    make_modular(traced.graph_module, dict(traced.values))
    assert not [m for m in traced.graph_module.modules() if isinstance(m, nn.Linear)]


class NormAct(nn.BatchNorm2d):
    """A norm that contains its activation, as some libraries have it."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


def test_a_layer_with_modules_inside_keeps_them():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4), nn.Flatten(), nn.Linear(16, 2))
    x = torch.randn(2, 3, 4, 4)
    expected = network[:-1].eval()(x)
    model = hat.convert(network, x)
    norms = [type(module) for module in model.body.modules() if isinstance(module, hat.PerTask)]
    assert norms == [hat.HATBatchNorm2d]
    model.begin_task(2)
    with model.eval().state.answering(OPEN):
        torch.testing.assert_close(model.body(x), expected)
    assert isinstance(network[1].act, nn.ReLU)
