"""Bias, activation, dropout and gate against the equation, evaluated in float64."""

import math

import pytest
import torch
from torch.autograd import gradcheck

import hat_kernels
from hat_kernels import ACTIVATIONS, GateForm, dropout
from tests.hat_kernels.forms import FORMS, form, tensors_of, values_of, with_tensors
from tests.hat_kernels.shapes import DTYPES, LAYOUTS, SHAPES, lay_out, normal
from tests.hat_kernels.tolerance import assert_as_accurate

BY_HAND = {
    "identity": lambda x: x,
    "relu": lambda x: x * (x > 0),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "tanh": torch.tanh,
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
}


def equation(x, bias, activation, gate, unit_dim):
    shape = [1] * x.dim()
    shape[unit_dim] = x.shape[unit_dim]
    z = x if bias is None else x + bias.view(shape)
    return BY_HAND[activation](z) * values_of(gate, x, unit_dim)


def widened_equation(activation, unit_dim, gate):
    """The equation, with the tensors of the gate as arguments of their own, so that the tolerance can widen them."""

    def reference(x, bias, *tensors):
        return equation(x, bias, activation, with_tensors(gate, tensors), unit_dim)

    return reference, tensors_of(gate)


def check(x, bias, activation, gate, unit_dim):
    actual = hat_kernels.gated_activation(x, bias, activation=activation, gate=gate, unit_dim=unit_dim)
    assert actual.dtype == x.dtype
    reference, tensors = widened_equation(activation, unit_dim, gate)
    assert_as_accurate(actual, reference, x, bias, *tensors)


def gate_dtype(dtype):
    """Gates are float32, and float64 for a gradcheck."""
    return torch.promote_types(dtype, torch.float32)


def test_every_activation_is_covered():
    assert set(BY_HAND) == set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form_name", FORMS)
@pytest.mark.parametrize("activation", BY_HAND)
def test_activations(activation, form_name, dtype):
    x, bias = 2 * normal((13, 31), dtype), normal((31,), dtype, 1)
    check(x, bias, activation, form(form_name, 31, 13, dtype=gate_dtype(dtype)), -1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form_name", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_layouts(shape, form_name, layout):
    x = lay_out(normal(shape), layout)
    check(x, None, "relu", form(form_name, shape[1], shape[0]), -1)


@pytest.mark.parametrize("form_name", FORMS)
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 5, 3, 4), (1, 1, 1), (2, 7, 1, 3, 2), (0, 5, 4), (3, 5, 0)])
def test_channels(shape, form_name):
    check(normal(shape), normal(shape[1:2], seed=1), "relu", form(form_name, shape[1], shape[0]), 1)


@pytest.mark.parametrize("form_name", ["none", "embedding", "mask"])
def test_one_dimension_and_units_first(form_name):
    check(normal((7,)), None, "tanh", form(form_name, 7, 1), -1)
    check(normal((7, 5)), normal((7,), seed=1), "tanh", form(form_name, 7, 7), 0)


@pytest.mark.parametrize("unit_dim", [-1, 1])
@pytest.mark.parametrize("form_name", FORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation, form_name, unit_dim):
    x = normal((3, 5) if unit_dim == -1 else (3, 5, 2), torch.float64)
    gate = form(form_name, 5, 3, dtype=torch.float64)
    inputs = [x.requires_grad_(), normal((5,), torch.float64, 1).requires_grad_()]
    if form_name == "embedding":
        inputs.append(gate.embedding.requires_grad_())

    def run(x, bias, *embedding):
        form = gate._replace(embedding=embedding[0]) if embedding else gate
        return hat_kernels.gated_activation(x, bias, activation=activation, gate=form, unit_dim=unit_dim)

    assert gradcheck(run, inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form_name", FORMS)
def test_gradients_in_every_dtype(form_name, dtype):
    """dx and dbias have the dtype of their tensor, and are as near to float64 as autograd through the equation."""
    gate = form(form_name, 31, 13, dtype=gate_dtype(dtype))
    x, bias, dy = normal((13, 31), dtype), normal((31,), dtype, 1), normal((13, 31), dtype, 2)
    reference, tensors = widened_equation("tanh", -1, gate)

    def gradients(x, bias, dy, *tensors):
        x, bias = x.detach().requires_grad_(), bias.detach().requires_grad_()
        return torch.autograd.grad(reference(x, bias, *tensors), (x, bias), dy)

    leaves = [x.clone().requires_grad_(), bias.clone().requires_grad_()]
    actual = torch.autograd.grad(hat_kernels.gated_activation(*leaves, activation="tanh", gate=gate), leaves, dy)
    assert [g.dtype for g in actual] == [dtype, dtype]
    assert_as_accurate(actual, gradients, x, bias, dy, *tensors)


@pytest.mark.parametrize("form_name", FORMS)
def test_stride_0_gradient(form_name):
    gate = form(form_name, 17, 5)
    results = []
    for loss in (torch.sum, lambda y: (y * torch.ones_like(y)).sum()):
        x, bias = normal((5, 17)).requires_grad_(), normal((17,), seed=1).requires_grad_()
        loss(hat_kernels.gated_activation(x, bias, gate=gate)).backward()
        results.append((x.grad, bias.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("form_name", ["mask", "task"])
def test_off_units_are_exactly_zero_whatever_they_hold(form_name, activation, value):
    x = normal((4, 6))
    mask = torch.tensor([[1.0, 0, 1, 0, 0.5, 0]] * 2)
    gate = GateForm(mask=mask[0]) if form_name == "mask" else GateForm(mask=mask, task=torch.tensor([0, 1, 1, 0]))
    clean = hat_kernels.gated_activation(x, activation=activation, gate=gate)
    x[:, mask[0] == 0] = value
    actual = hat_kernels.gated_activation(x, activation=activation, gate=gate)
    assert torch.equal(actual, clean)
    assert torch.equal(actual[:, mask[0] == 0], torch.zeros(4, 3))


def test_dropout_comes_after_the_activation_and_before_the_gate():
    """sigmoid(0) is 0.5: if dropout came before the activation, dropped elements would be 0.5 instead of 0."""
    x, mask = torch.zeros(200, 8), torch.tensor([1.0, 1, 1, 1, 0.25, 0.25, 0, 0])
    torch.manual_seed(0)
    y = hat_kernels.gated_activation(x, activation="sigmoid", dropout=0.75, gate=GateForm(mask=mask))
    assert set(y[:, :4].unique().tolist()) == {0.0, 2.0}
    assert set(y[:, 4:6].unique().tolist()) == {0.0, 0.5}
    assert not y[:, 6:].any()
    torch.manual_seed(0)
    assert torch.equal(y, dropout(torch.sigmoid(x), 0.75) * mask)


def test_published_and_exact_reach_the_embedding():
    embedding, scale, x = normal((7,)), torch.tensor(2.0), normal((5, 7), seed=1)
    for compensation in ("none", "published", "exact"):
        fused_embedding, plain_embedding = embedding.clone().requires_grad_(), embedding.clone().requires_grad_()
        form = GateForm(embedding=fused_embedding, scale=scale, s_max=90.0, compensation=compensation)
        hat_kernels.gated_activation(x, gate=form).sum().backward()
        gate = hat_kernels.gate(plain_embedding, scale, compensation=compensation, s_max=90.0)
        (torch.relu(x) * gate).sum().backward()
        assert torch.equal(fused_embedding.grad, plain_embedding.grad)


def test_the_gate_is_float32_under_half_inputs():
    """sigmoid(s e) rounded to bfloat16 would be 1 for every s e > 6."""
    embedding, scale = torch.tensor([7.0, -7.0]).requires_grad_(), torch.tensor(1.0)
    x = torch.ones(2, 2, dtype=torch.bfloat16)
    gate = GateForm(embedding=embedding, scale=scale, compensation="none")
    hat_kernels.gated_activation(x, gate=gate).sum().backward()
    assert embedding.grad.dtype == torch.float32
    expected = 2 * torch.sigmoid(embedding.detach().double()) * torch.sigmoid(-embedding.detach().double())
    # Rounding errors of 1 - a, eps / (1 - a) relative, and of the products.
    bound = torch.finfo(torch.float32).eps * (1 / torch.sigmoid(-embedding.detach().double()) + 4) * expected
    assert ((embedding.grad.double() - expected).abs() <= bound).all()
