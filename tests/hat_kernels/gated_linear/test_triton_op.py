"""The kernels as PyTorch operators: opcheck, torch.compile, updates in the backward pass, one backward."""

import sys
from unittest import mock

import pytest
import torch

import hat_kernels
from hat_kernels import GateForm
from hat_kernels.gated_linear import choice
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.forms import FORMS
from tests.hat_kernels.gated_activation.kernel import gate_of
from tests.hat_kernels.gated_linear.kernel import inputs
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.shapes import normal

pytest.importorskip("triton")

import hat_kernels.gated_linear.triton  # registers the operators

PLAIN = {("forward", "fp32", choice.shape_class(6, 8, 4)): "plain"}


def arguments(name, dropout, keep=True):
    x, weight, bias, _ = inputs(6, 4, 8)
    gate = gate_of(name, 8, 6, "published")
    if name == "embedding":
        gate.embedding.requires_grad_()
    seed = torch.tensor([7], device=DEVICE) if dropout else None
    leaves = [leaf.requires_grad_() for leaf in (x, weight, bias)]
    return [*leaves, seed, *(gate or GateForm()), "silu", dropout, 2, 1, True, keep]


@pytest.mark.parametrize(("name", "dropout"), [("none", 0.0), ("embedding", 0.5), ("mask", 0.0), ("task", 0.5)])
def test_opcheck(name, dropout):
    operator_arguments = arguments(name, dropout)
    operators = torch.ops.hat_kernels
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operators.gated_linear, operator_arguments, test_utils=checks)
    operator_arguments = [value.detach() if isinstance(value, torch.Tensor) else value for value in operator_arguments]
    y, z = operators.gated_linear(*operator_arguments)
    checks = ("test_schema", "test_faketensor")
    needs = (True, True, True, name == "embedding")
    backward = [torch.ones_like(y), operator_arguments[1], z, *operator_arguments[2:12], 2, True, *needs]
    torch.library.opcheck(operators.gated_linear_backward, backward, test_utils=checks)
    torch.library.opcheck(operators.gated_linear_gradient, [y, operator_arguments[0], 2, 1, True], test_utils=checks)


@pytest.mark.parametrize("test", ["test_aot_dispatch_static", "test_aot_dispatch_dynamic"])
@pytest.mark.parametrize("name", ["none", "embedding"])
def test_opcheck_through_autograd(name, test):
    torch.library.opcheck(torch.ops.hat_kernels.gated_linear, arguments(name, 0.0), test_utils=test)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", FORMS)
def test_compile(name, dropout):
    """One graph forward and one backward, with the numbers of the eager kernel."""
    gate = gate_of(name, 8, 6, "published")
    embedding = gate.embedding if name == "embedding" else None
    x, weight, bias, _ = inputs(6, 4, 8)

    def step(x, weight, bias, embedding):
        form = gate
        if embedding is not None:
            form = GateForm(embedding=embedding, scale=gate.scale, compensation=gate.compensation)
        y = hat_kernels.gated_linear(2 * x, weight, bias, dropout=dropout, frozen=(3, 2), gate=form)
        return y * y

    def gradients(function):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias, embedding) if t is not None]
        torch.manual_seed(0)
        y = function(*leaves, *([None] if embedding is None else []))
        return [y, *torch.autograd.grad(y.sum(), leaves)]

    with hat_kernels.backend("triton"):
        expected = gradients(step)
        torch._dynamo.reset()
        actual = gradients(torch.compile(step, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(actual, expected)


def test_compiled_code_asks_what_was_measured_when_it_runs(monkeypatch):
    x, weight, bias, _ = inputs(6, 4, 8)
    monkeypatch.setattr(sys.modules["hat_kernels.gated_linear.api"], "forced", lambda: False)
    with hat_kernels.backend("triton"), count_launches() as launches:
        torch._dynamo.reset()
        compiled = torch.compile(hat_kernels.gated_linear, fullgraph=True, backend="aot_eager")
        for measured, kernel in ({}, "gated_activation_rows_forward"), (PLAIN, "gated_linear_forward"):
            launches.clear()
            with choice.measuring(measured):
                actual = compiled(x, weight, bias)
            torch.testing.assert_close(actual, torch.relu(torch.nn.functional.linear(x, weight, bias)))
            assert launches == {kernel: 1}


def test_a_second_backward_is_refused():
    x, weight, bias, _ = inputs(6, 4, 8)
    x.requires_grad_()
    with hat_kernels.backend("triton"):
        y = hat_kernels.gated_linear(x, weight, bias, activation="tanh")
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="gated_linear: differentiable once"):
        dx.sum().backward()


@pytest.mark.parametrize("moves", [True, False])
def test_an_update_takes_the_place_of_the_gradient(moves):
    x, weight, bias, dy = inputs(6, 4, 8)
    leaves = [leaf.requires_grad_() for leaf in (x, weight, bias)]
    updates = []

    def update(*tensors):
        updates.append([tensor.detach().clone() for tensor in tensors])
        return moves

    with hat_kernels.backend("triton"):
        expected = torch.autograd.grad(hat_kernels.gated_linear(*leaves, frozen=(2, 1)), leaves, dy)
        y = hat_kernels.gated_linear(*leaves, frozen=(2, 1), update=update)
        actual = torch.autograd.grad(y, leaves, dy, allow_unused=True)
    assert torch.equal(updates[0][0], weight)
    gradient = updates[0][1].t() @ updates[0][2]
    gradient[:2, :1] = 0
    torch.testing.assert_close(gradient, expected[1])
    torch.testing.assert_close(actual[::2], expected[::2])
    assert (actual[1] is None) == moves
    if not moves:
        assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fused", [True, False])
def test_under_autocast_the_master_weight_moves(dtype, fused):
    leaves = [normal(shape, seed=seed).to(DEVICE).requires_grad_() for seed, shape in enumerate([(5, 6), (4, 6), (4,)])]
    updates = []

    def update(weight, dz, x):
        updates.append((weight, dz.dtype, x.dtype))
        return True

    forced = mock.patch("hat_kernels.gated_linear.api.forced", return_value=fused)
    with hat_kernels.backend("triton"), forced, torch.autocast(DEVICE, dtype=dtype):
        y = hat_kernels.gated_linear(*leaves, frozen=(0, 0), update=update)
        y.float().sum().backward()
    assert updates[0][0].data_ptr() == leaves[1].data_ptr()
    assert updates[0][0].dtype == torch.float32
    assert updates[0][1:] == (dtype, dtype)
    assert leaves[1].grad is None
    assert leaves[2].grad is not None


def test_a_weight_that_has_moved_is_refused():
    x, weight, bias, _ = inputs(6, 4, 8)
    weight.requires_grad_()
    with hat_kernels.backend("triton"):
        y = hat_kernels.gated_linear(x, weight, bias, frozen=(0, 0), update=lambda *_: True)
    weight.data.add_(1)
    weight.detach().add_(1)
    with pytest.raises(RuntimeError, match="in_backward: the weight has moved since its forward pass"):
        y.sum().backward()


def test_a_graph_captures_it():
    if DEVICE == "cpu":
        pytest.skip("a CUDA graph needs a GPU")
    leaves = [leaf.requires_grad_() for leaf in inputs(64, 96, 128)[:3]]
    gate = gate_of("embedding", 128, 64)

    def step():
        with hat_kernels.backend("triton"):
            y = hat_kernels.gated_linear(*leaves, dropout=0.5, gate=gate)
            return y.detach(), torch.autograd.grad(y.sum(), leaves)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, _ = step()
    graph.replay()
    first = y.clone()
    graph.replay()
    assert not torch.equal(first, y)  # the seed is drawn inside the graph
