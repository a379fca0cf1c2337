"""The gated linear layer against the equation, evaluated in float64."""

import pytest
import torch
from torch.autograd import gradcheck

import hat_kernels
from hat_kernels import GateForm
from tests.hat_kernels.forms import FORMS, form, tensors_of, values_of, with_tensors
from tests.hat_kernels.shapes import LAYOUTS, lay_out, normal
from tests.hat_kernels.tolerance import assert_as_accurate

# (batch, inputs, units)
SIZES = [(1, 1, 1), (3, 7, 5), (5, 1, 17), (13, 129, 31), (33, 65, 129), (0, 5, 3), (4, 0, 3), (4, 5, 0)]


def equation(gate):
    def reference(x, weight, bias, *tensors):
        z = x @ weight.t()
        z = z if bias is None else z + bias
        return z * (z > 0) * values_of(with_tensors(gate, tensors), z, -1)

    return reference, tensors_of(gate)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form_name", FORMS)
@pytest.mark.parametrize("sizes", SIZES)
def test_forward(sizes, form_name, layout):
    batch, inputs, units = sizes
    gate = form(form_name, units, batch)
    arguments = [lay_out(normal((batch, inputs)), layout), lay_out(normal((units, inputs), seed=1), layout)]
    bias = normal((units,), seed=2)
    actual = hat_kernels.gated_linear(*arguments, bias, gate=gate)
    reference, tensors = equation(gate)
    assert_as_accurate(actual, reference, *arguments, bias, *tensors)


@pytest.mark.parametrize("form_name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients(form_name, dtype):
    gate = form(form_name, 31, 13, dtype=dtype)
    x, weight, bias = normal((13, 17), dtype), normal((31, 17), dtype, 1), normal((31,), dtype, 2)
    dy = normal((13, 31), dtype, 3)
    reference, tensors = equation(gate)

    def gradients(x, weight, bias, dy, *tensors):
        leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
        return torch.autograd.grad(reference(*leaves, *tensors), leaves, dy)

    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    actual = torch.autograd.grad(hat_kernels.gated_linear(*leaves, gate=gate), leaves, dy)
    assert_as_accurate(actual, gradients, x, weight, bias, dy, *tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_matmul_once(dtype):
    """The matmul and the epilogue each round to the dtype once: two half ulps of the largest intermediate value."""
    x, weight, gate = normal((13, 65), dtype), normal((31, 65), dtype, 1), form("mask", 31, 13)
    actual = hat_kernels.gated_linear(x, weight, activation="identity", gate=gate)
    assert actual.dtype == dtype
    exact = (x.double() @ weight.double().t()) * gate.mask.double()
    eps = torch.finfo(dtype).eps
    assert (
        (actual.double() - exact).abs()
        <= eps * exact.abs() + eps * 1e-2 * (x.double().abs() @ weight.double().t().abs())
    ).all()


@pytest.mark.parametrize("leading", [(), (2, 3), (1, 1, 4)])
def test_leading_dimensions(leading):
    x, weight, gate = normal((*leading, 5)), normal((7, 5), seed=1), form("mask", 7, 1)
    actual = hat_kernels.gated_linear(x, weight, gate=gate)
    assert actual.shape == (*leading, 7)
    assert torch.equal(actual, torch.relu(torch.nn.functional.linear(x, weight)) * gate.mask)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form_name", FORMS)
def test_gradcheck(form_name, bias):
    gate = form(form_name, 5, 3, dtype=torch.float64)
    leaves = [normal((3, 4), torch.float64), normal((5, 4), torch.float64, 1)]
    leaves += [normal((5,), torch.float64, 2)] if bias else []
    leaves += [gate.embedding] if form_name == "embedding" else []
    for leaf in leaves:
        leaf.requires_grad_()

    def run(x, weight, *others):
        others = list(others)
        bias_value = others.pop(0) if bias else None
        learned = gate._replace(embedding=others.pop(0)) if others else gate
        return hat_kernels.gated_linear(x, weight, bias_value, activation="tanh", gate=learned)

    assert gradcheck(run, leaves)


def test_stride_0_gradient():
    results = []
    for loss in (torch.sum, lambda y: (y * torch.ones_like(y)).sum()):
        x, weight = normal((5, 7)).requires_grad_(), normal((3, 7), seed=1).requires_grad_()
        loss(hat_kernels.gated_linear(x, weight, gate=form("embedding", 3, 5))).backward()
        results.append((x.grad, weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_off_units_hide_overflow():
    weight = torch.tensor([[torch.inf, 1.0], [1.0, 1.0]])
    actual = hat_kernels.gated_linear(torch.ones(3, 2), weight, gate=GateForm(mask=torch.tensor([0.0, 1.0])))
    assert torch.equal(actual, torch.tensor([[0.0, 2.0]] * 3))
