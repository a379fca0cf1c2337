"""Who consumes whose units."""

import pytest
import torch
from torch import nn

import hat
from hat.units.locks import locks
from tests.hat.nets import use

TRANSPARENT = [nn.Identity(), nn.Dropout(0.5), nn.ReLU(), nn.LeakyReLU(), nn.GELU(), nn.SiLU(), nn.Tanh()]
OPAQUE = [nn.LayerNorm(8), nn.Sigmoid(), nn.Softmax(-1), nn.Softplus(), nn.Linear(8, 8), nn.GroupNorm(2, 8)]


def columns(body, layer):
    return locks(body)[layer.weight].columns


@pytest.mark.parametrize("between", TRANSPARENT, ids=lambda m: type(m).__name__)
def test_a_gate_reaches_through_what_keeps_units_apart(between):
    first, second = hat.HATLinear(3, 8), hat.HATLinear(8, 5)
    body = hat.chain(first, between, second)
    assert torch.equal(columns(body, second), first.gate.free)
    zeros = torch.zeros(2, 8)
    assert torch.equal(between.eval()(zeros), zeros)


@pytest.mark.parametrize("between", OPAQUE, ids=lambda m: type(m).__name__)
def test_anything_else_ends_its_reach(between):
    first, second = hat.HATLinear(3, 8), hat.HATLinear(8, 5)
    assert columns(hat.chain(first, between, second), second) is None


@pytest.mark.parametrize("size", [1, 3])
def test_flatten_repeats_channel_major(size):
    conv, linear = hat.HATConv2d(1, 4, 2), hat.HATLinear(4 * size * size, 5)
    body = hat.chain(conv, nn.Flatten(), linear)
    lock = locks(body)[linear.weight]
    assert lock.column_repeat == size * size
    with torch.no_grad():
        use(conv.gate, [1, 0, 0, 1])
        use(linear.gate, [1] * linear.gate.units)
        x = torch.ones(1, 1, size + 1, size + 1)
        features = body[1](conv(x) * 0 + torch.arange(4.0).view(1, 4, 1, 1))
    from hat_kernels.lock import rate

    moves = rate(locks(body)[linear.weight], linear.weight)[0]
    assert torch.equal(moves, torch.isin(features[0], torch.tensor([1.0, 2.0])).float())


def test_groups():
    first, depthwise = hat.HATConv2d(1, 4, 1), hat.HATConv2d(4, 8, 3, groups=4)
    body = hat.chain(first, nn.MaxPool2d(2), depthwise)
    lock = locks(body)[depthwise.weight]
    assert (lock.groups, lock.column_repeat) == (4, 1)
    assert torch.equal(lock.columns, first.gate.free)


def test_a_gate_of_its_own():
    gate, layer = hat.Gate(8), hat.HATLinear(8, 5)
    assert torch.equal(columns(hat.chain(nn.Linear(3, 8), gate, nn.ReLU(), layer), layer), gate.free)


def test_channels_that_do_not_fit():
    with pytest.raises(ValueError, match="inputs: expected 8 units x 1, got 9 inputs"):
        hat.chain(hat.HATConv2d(1, 8, 1), hat.HATConv2d(9, 5, 1))
    with pytest.raises(ValueError, match="inputs: expected 8 units x 1, got 4 inputs"):
        hat.chain(hat.HATConv2d(1, 8, 1), nn.Flatten(), hat.HATLinear(4, 5))


@pytest.mark.parametrize("inputs", [4, 9, 16])
def test_features_that_are_not_the_units_one_by_one(inputs):
    """After tokens are flattened, say: the units are there, but not k in a row."""
    first, second = hat.HATLinear(3, 8), hat.HATLinear(inputs, 5)
    assert columns(hat.chain(first, nn.Flatten(), second), second) is None


def test_order_of_application_is_kept():
    modules = [hat.HATLinear(3, 8), nn.ReLU(), hat.HATLinear(8, 5)]
    assert list(hat.chain(*modules)) == modules


def test_a_flatten_that_leaves_channels_last_is_not_channel_major():
    """Flatten(0, 1) folds the channels into the batch: units no longer lie along the features."""
    conv, layer = hat.HATConv1d(1, 4, 1), hat.HATLinear(4, 5)
    assert columns(hat.chain(conv, nn.Flatten(0, 1), layer), layer) is None


def test_linear_on_the_last_dimension_of_a_convolution_without_flatten():
    """(B, C, L) into a linear layer over L: the inputs are positions, not channels."""
    conv, layer = hat.HATConv1d(1, 4, 1), hat.HATLinear(4, 5)
    assert columns(hat.chain(conv, layer), layer) is None


def test_a_container_inside_ends_the_reach():
    inner = nn.Sequential(nn.ReLU())
    first, second = hat.HATLinear(3, 8), hat.HATLinear(8, 5)
    assert columns(hat.chain(first, inner, second), second) is None
