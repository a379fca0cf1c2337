"""Channels that weigh each other."""

import pytest
import torch
import torch.nn.functional as F

import hat
from hat.units.locks import sides
from hat.units.state import OPEN, Finished
from tests.hat.nets import Squeezed, anneal, answer_for, same_gradients, soft, use


def layer_and_images():
    torch.manual_seed(0)
    layer = hat.SqueezeExcitation(4, 3, gate=hat.Gate(4), dtype=torch.float64)
    return layer, torch.randn(2, 4, 3, 5, dtype=torch.float64)


def by_hand(layer, x, gate):
    h = torch.relu(F.linear(x.mean((2, 3)), layer.squeeze.weight, layer.squeeze.bias)) * gate
    return x * torch.sigmoid(F.linear(h, layer.excite.weight, layer.excite.bias))[:, :, None, None]


def test_with_open_gates():
    layer, x = layer_and_images()
    torch.testing.assert_close(answer_for(layer, OPEN)(x), by_hand(layer, x, 1))


def test_gradients_of_a_computation_by_hand():
    """The gate of the channels is in what comes in, and not applied again."""
    layer, x = layer_and_images()
    anneal(layer, 0.005)
    x.requires_grad_()
    gated = x * soft(layer.excite.gate)[:, None, None]
    expected = by_hand(layer, gated, soft(layer.squeeze.gate))
    same_gradients([x, *layer.parameters()], layer(gated), expected)


def test_off_units_have_no_part():
    layer, x = layer_and_images()
    use(layer.excite.gate, [1, 0, 1, 0])
    use(layer.squeeze.gate, [0, 1, 1])
    x[:, 1::2] = 0
    y = answer_for(layer, Finished(0))(x)
    assert not y[:, 1::2].any()
    with torch.no_grad():
        layer.squeeze.weight[:, 1::2] += 1
        layer.squeeze.weight[0] -= 1
        layer.excite.weight[:, 0] += 1
        layer.excite.weight[1::2] += 1
    assert torch.equal(layer(x), y)


def test_a_scale_is_one_unit_with_its_channel():
    body = Squeezed(4, 3)
    channels, squeezed = body.one.gate, body.weigh.squeeze.gate
    found = sides(body)
    assert found[body.weigh.squeeze.weight].lock.columns is channels.free
    assert found[body.weigh.squeeze.weight].lock.rows is squeezed.free
    assert found[body.weigh.excite.weight].lock.rows is channels.free
    assert found[body.weigh.excite.weight].lock.columns is squeezed.free
    assert squeezed.complete
    assert not channels.complete


def test_errors():
    with pytest.raises(ValueError, match="inputs: expected 5 units x 1, got 4 inputs"):
        hat.SqueezeExcitation(4, 3, gate=hat.Gate(5))
    layer, x = layer_and_images()
    with pytest.raises(ValueError, match=r"x: expected shape \(B, C, H, W\), got \(4, 3, 5\)"):
        layer(x[0])
