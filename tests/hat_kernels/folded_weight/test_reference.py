"""Folded weights against the formulas in float64, and against a layer whose activations are gated."""

import math

import pytest
import torch
import torch.nn.functional as F

import hat_kernels
from hat_kernels import GATE_FLOOR, GateForm
from tests.hat_kernels.folded_weight.cases import formula, inputs, results
from tests.hat_kernels.shapes import LAYOUTS, PARAMETER_SHAPES, lay_out, normal
from tests.hat_kernels.tolerance import FACTOR, assert_as_accurate

FLOATS = [torch.float32, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", PARAMETER_SHAPES)
def test_is_the_formula(shape, bias, dtype):
    arguments = inputs(shape, dtype, bias)
    actual = results(*arguments, compensation="none")
    assert all(value.dtype == dtype for value in actual[:-1])
    assert_as_accurate(actual, formula, *arguments)


@pytest.mark.parametrize("compensation", ["none", "published", "exact"])
def test_compensations(compensation):
    arguments = inputs((129, 7))
    assert_as_accurate(results(*arguments, compensation=compensation), formula, *arguments, compensation=compensation)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(9,), (5, 17), (6, 4, 3, 3)])
def test_layouts(shape, layout):
    arguments = inputs(shape)
    arguments[0], arguments[4] = lay_out(arguments[0], layout), lay_out(arguments[4], layout)
    assert_as_accurate(results(*arguments, compensation="none"), formula, *arguments)


def test_a_cast_rounds_once():
    arguments = inputs((33, 17))
    wide = results(*arguments)
    for name, actual in zip(("weight", "bias"), results(*arguments, dtype=torch.bfloat16), strict=False):
        assert torch.equal(actual, wide[("weight", "bias").index(name)].bfloat16())
    assert [value.dtype for value in results(*arguments, dtype=torch.bfloat16)[2:]] == [torch.float32] * 3


@pytest.mark.parametrize("shape", [(4,), (4, 3), (3, 2, 2, 1, 2)])
def test_gradcheck(shape):
    weight, bias, embedding = (
        normal(s, torch.float64, n).requires_grad_() for n, s in enumerate((shape, shape[:1], shape[:1]))
    )
    scale = torch.tensor(1.3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda weight, bias, e: hat_kernels.folded_weight(
            weight, bias, gate=GateForm(embedding=e, scale=scale, compensation="none")
        ),
        (weight, bias, embedding),
    )


def test_differentiable_once():
    weight = normal((3, 2)).requires_grad_()
    folded, _ = hat_kernels.folded_weight(weight, gate=GateForm(embedding=torch.zeros(3), scale=torch.tensor(1.0)))
    (gradient,) = torch.autograd.grad((folded**2).sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


def test_only_what_needs_a_gradient_gets_one():
    weight, embedding = normal((3, 2)), torch.zeros(3, requires_grad=True)
    folded, _ = hat_kernels.folded_weight(weight, gate=GateForm(embedding=embedding, scale=torch.tensor(1.0)))
    folded.sum().backward()
    assert weight.grad is None
    assert embedding.grad.any()


# ---------------------------------------------------------------- the floor

# Values of s e: a gate of 1/2, one near 1, one where 1 - a saturates, both sides of the floor, the clamp of the
# published compensation, far beyond this clamp, and the clamp of embeddings.
SPANS = [0.0, 8.0, 12.0, 15.0, 18.0, 100.0, -10.0, -20.0, -22.1, -22.2, -25.0, -49.0, -51.0, -60.0, -80.0, -2400.0]
SCALE = 400.0


def layer(weight, bias, embedding, scale, x, dy, *, way, compensation, activation="leaky_relu", dtype=None):
    """[y, and the gradients of x, weight, bias and embedding] of a pooled convolution; `snap` folds gates of 0."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias, embedding)]
    x, weight, bias, embedding = leaves
    gate = GateForm(embedding=embedding, scale=scale, compensation=compensation)
    dtype = dtype or x.dtype
    folded = way != "unfolded"
    if way == "snap":
        a = hat_kernels.gate(embedding, scale, compensation=compensation)
        w, b = weight * a[:, None, None].to(weight.dtype), bias * a.to(bias.dtype)
    else:
        w, b = hat_kernels.folded_weight(weight, bias, gate=gate, dtype=dtype) if folded else (weight, bias)
    z = F.conv1d(x.to(dtype), w.to(dtype), b.to(dtype), padding=1)
    h = F.max_pool1d(hat_kernels.gated_activation(z, activation=activation, unit_dim=1), 2)
    y = h if folded else hat_kernels.gated_activation(h, activation="identity", unit_dim=1, gate=gate)
    return [y, *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


def pooled(dtype):
    """Arguments of `layer`: whole numbers, which no sum rounds, so that pools choose the same element in both ways."""
    units = len(SPANS)
    weight, bias = (normal(shape, dtype, seed).mul(4).round() for shape, seed in (((units, 3, 3), 0), ((units,), 1)))
    x, dy = normal((2, 3, 8), dtype, 2).mul(4).round(), normal((2, units, 4), dtype, 3)
    return weight, bias, torch.tensor(SPANS) / SCALE, torch.tensor(SCALE), x, dy


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity"])
@pytest.mark.parametrize("compensation", ["none", "published", "exact"])
def test_a_folded_layer_is_the_layer(compensation, activation):
    """Results and gradients agree to float32 rounding for each unit, also for units with a gate below the floor.

    Each unit is compared by itself, because the gradients span decades. The network is in float64, gates and embeddings
    are in float32. A unit that is off keeps a share of 2^-32, the floor.
    """
    arguments = pooled(torch.float64)
    options = {"compensation": compensation, "activation": activation}
    actual, expected = (layer(*arguments, way=way, **options) for way in ("folded", "unfolded"))
    leak = 2 * GATE_FLOOR
    for index, dim in ((0, 1), (2, 0), (3, 0), (4, 0)):
        for unit, (mine, theirs) in enumerate(zip(actual[index].unbind(dim), expected[index].unbind(dim), strict=True)):
            off = (mine - theirs).abs().max()
            # The floor shows in the output alone.
            floor = arguments[0].abs().sum() * arguments[4].abs().max() * leak if index == 0 else 0
            assert off <= 8 * torch.finfo(torch.float32).eps * theirs.abs().max() + floor, (index, SPANS[unit])
    scale = expected[1].abs().max()
    assert (actual[1] - expected[1]).abs().max() <= 8 * torch.finfo(torch.float32).eps * scale
    below = torch.tensor(SPANS) < math.log(GATE_FLOOR)
    assert not actual[2][below].any()  # as without folding
    assert not actual[3][below].any()


@pytest.mark.parametrize("compensation", ["published", "exact"])
def test_a_gate_that_snaps_to_0_would_lose_the_gradient_of_its_embedding(compensation):
    """At an input of exactly 0, ReLU has no derivative, so a gate of 0 would get no gradient."""
    arguments = pooled(torch.float64)
    actual, expected = (
        layer(*arguments, way=way, compensation=compensation, activation="relu")[4] for way in ("snap", "unfolded")
    )
    below = torch.tensor(SPANS) < math.log(GATE_FLOOR)
    assert expected[below][:3].abs().min() > 0
    assert not actual[below].any()


@pytest.mark.parametrize("compensation", ["published", "exact"])
def test_in_bfloat16(compensation):
    """The whole gradient is about as near to float64 as that of the layer without folding, in bfloat16.

    Inputs are whole numbers. With near neighbours, rounding to bfloat16 would decide which element a pool chooses.
    """
    arguments = pooled(torch.float64)
    precise = layer(*arguments, way="unfolded", compensation=compensation)
    narrow = [t.float() if t.dtype == torch.float64 else t for t in arguments]
    actual, theirs = (
        layer(*narrow, way=way, compensation=compensation, dtype=torch.bfloat16) for way in ("folded", "unfolded")
    )
    for mine, unfolded, true in zip(actual, theirs, precise, strict=True):
        spread = (unfolded.double() - true).abs().max() + torch.finfo(torch.bfloat16).eps * true.abs().max()
        assert (mine.double() - true).abs().max() <= 2 * FACTOR * spread


def test_nan_embedding_shows():
    gate = GateForm(embedding=torch.tensor([torch.nan, 1.0]), scale=torch.tensor(1.0))
    folded, _ = hat_kernels.folded_weight(torch.ones(2, 2), gate=gate)
    assert folded.isnan().any(1).tolist() == [True, False]


def test_no_folded_weight_is_subnormal():
    gate = GateForm(embedding=torch.linspace(-6, 6, 101), scale=torch.tensor(400.0))
    folded, _ = hat_kernels.folded_weight(torch.ones(101, 1), gate=gate)
    assert folded.min() == GATE_FLOOR
