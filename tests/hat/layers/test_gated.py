"""Gated layers compared with plain layers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
import hat_kernels
from hat.layers.gated import GatedLayer

CONVS = [(hat.HATConv1d, F.conv1d, 1), (hat.HATConv2d, F.conv2d, 2), (hat.HATConv3d, F.conv3d, 3)]


def attention(layer):
    return torch.sigmoid(layer.gate.state.scale * layer.gate.embedding)


def test_linear():
    layer = hat.HATLinear(4, 3, activation="tanh")
    layer.gate.state.set_progress(0.01)
    x = torch.randn(2, 5, 4)
    assert torch.equal(layer(x), torch.tanh(F.linear(x, layer.weight, layer.bias)) * attention(layer))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(("layer_type", "convolve", "dims"), CONVS)
def test_convolution(layer_type, convolve, dims, pool):
    pooling = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims](2) if pool else None
    layer = layer_type(4, 6, 3, stride=1, padding=1, groups=2, pool=pooling)
    layer.gate.state.config = hat.GateConfig(fold="never")  # to the bit; folded, see test_folding.py
    layer.gate.state.set_progress(0.01)
    x = torch.randn(2, 4, *[5] * dims)
    h = torch.relu(convolve(x, layer.weight, layer.bias, padding=1, groups=2))
    h = pooling(h) if pool else h
    assert torch.equal(layer(x), h * attention(layer).view(1, 6, *[1] * dims))


@pytest.mark.parametrize("bias", [False, True])
def test_members(bias):
    layer = hat.HATLinear(4, 3, bias=bias)
    assert [(m.name, m.dim) for m in layer.gate.members] == [("weight", 0)] + [("bias", 0)] * bias


def test_dropout_in_training_only():
    layer = hat.HATLinear(4, 64, dropout=0.5, activation="sigmoid")
    x = torch.randn(8, 4)
    assert (layer(x) == 0).float().mean() > 0.2
    assert torch.equal(layer.eval()(x), layer(x))


def test_an_off_unit_cannot_hide_the_element_that_a_pool_chooses():
    """The gate comes after the pool, so its gradient is that of the pooled activation."""
    layer = hat.HATConv2d(1, 1, 1, pool=nn.MaxPool2d(2))
    layer.gate.state.set_progress(0.0)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    pooled = nn.MaxPool2d(2)(torch.relu(layer._conv_forward(x, layer.weight, layer.bias)))
    assert torch.equal(layer(x), pooled * attention(layer))


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_range(dropout):
    for make in (lambda: hat.HATLinear(2, 3, dropout=dropout), lambda: hat.HATConv1d(2, 3, 1, dropout=dropout)):
        with pytest.raises(ValueError, match=r"dropout: expected in \[0, 1\), got"):
            make()


@pytest.mark.parametrize("dropout", [0, 0.0, 0.5, np.float32(0.5), np.float64(0.25), np.int64(0)])
def test_a_probability_of_any_kind_of_number(dropout):
    """An int has no `is_integer` on Python 3.10 and 3.11."""
    plain = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(dropout), nn.Linear(3, 2))
    models = (
        hat.HATModel(hat.HATLinear(2, 3, dropout=dropout)),
        hat.HATModel(hat.models.mlp(2, hidden=(3,), input_dropout=dropout, dropout=dropout)),
        hat.convert(plain, torch.ones(2, 2)),
    )
    for model in models:
        model.begin_task(2)
        assert model(torch.ones(4, 2)).isfinite().all()
    layers = [module for model in models for module in model.modules()]
    assert {type(module.dropout) for module in layers if isinstance(module, GatedLayer)} == {float}
    hat.HATConv2d(1, 2, 1, dropout=dropout)(torch.ones(2, 1, 3, 3)).sum().backward()
    layers = hat.models.alexnet((1, 12, 12), channels=(2, 2, 2), hidden=(3,), dropout=(dropout,) * 4)
    assert layers(torch.ones(2, 1, 12, 12)).isfinite().all()
    assert (hat_kernels.dropout(torch.ones(64), dropout) <= 2).all()


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"activation: expected one of .*, got 'swish'"):
        hat.HATLinear(2, 3, activation="swish")


def test_shared_gate_of_other_length():
    with pytest.raises(ValueError, match=r"weight: expected 4 units x 1 along dimension 0, got \(3, 2\)"):
        hat.HATLinear(2, 3, gate=hat.Gate(4))


def test_inputs_of_other_length():
    with pytest.raises(ValueError, match="inputs: expected 4 units x 1, got 6 inputs"):
        hat.HATLinear(6, 3, inputs=hat.Gate(4))


def test_a_shared_convolution_gate_keeps_its_dimension():
    """A linear layer and a convolution cannot share one gate silently along different dimensions."""
    conv = hat.HATConv2d(1, 4, 1, pool=nn.Identity())
    other = hat.HATConv2d(4, 4, 1, gate=conv.gate, pool=nn.Identity())
    x = torch.randn(2, 1, 3, 5)
    assert other(conv(x)).shape == (2, 4, 3, 5)


def test_a_pooling_convolution_on_a_gate_made_by_hand():
    """`gate.unit_dim` defaults to -1; with a pool the layer calls the gate, without one it passes unit_dim=1 itself."""
    gate = hat.Gate(4)
    conv = hat.HATConv2d(1, 4, 1, pool=nn.MaxPool2d(2), gate=gate)
    gate.state.config = hat.GateConfig(fold="never")
    gate.state.set_progress(0.01)
    x = torch.randn(2, 1, 8, 8)  # pooled to 4 x 4: a gate along the last dimension would fit, and be wrong
    pooled = nn.MaxPool2d(2)(torch.relu(F.conv2d(x, conv.weight, conv.bias)))
    assert torch.equal(conv(x), pooled * attention(conv).view(1, 4, 1, 1))


def test_unbatched_convolution_input():
    """torch accepts (C, *spatial) too, but the gate would then lie along the wrong dimension."""
    conv = hat.HATConv2d(1, 4, 1)
    x = torch.randn(1, 4, 4)
    with pytest.raises(ValueError, match="x: expected"):
        conv(x)
