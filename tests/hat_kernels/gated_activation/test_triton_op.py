"""The kernels as PyTorch operators: opcheck, torch.compile, autocast, one backward."""

import pytest
import torch

import hat_kernels
from hat_kernels import GateForm
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.forms import FORMS
from tests.hat_kernels.gated_activation.kernel import gate_of
from tests.hat_kernels.shapes import normal

pytest.importorskip("triton")

import hat_kernels.gated_activation.triton  # registers the operators

LAYOUTS = [
    ((6, 8), -1, lambda x: x),
    ((3, 8, 5), 1, lambda x: x),
    ((3, 8, 2, 2), 1, lambda x: x.to(memory_format=torch.channels_last)),
    ((8, 6), -1, lambda x: x.t()),
]


def arguments(name, dropout, shape, unit_dim, arrange):
    x = arrange(normal(shape).to(DEVICE))
    units = x.shape[unit_dim]
    gate = gate_of(name, units, x.shape[0], "published")
    bias = normal((units,), seed=1).to(DEVICE).requires_grad_()
    if name == "embedding":
        gate.embedding.requires_grad_()
    seed = torch.tensor([7], device=DEVICE) if dropout else None
    return [x.detach().requires_grad_(), bias, seed, *(gate or GateForm()), "silu", dropout, unit_dim]


@pytest.mark.parametrize(("name", "dropout"), [("none", 0.0), ("embedding", 0.5), ("mask", 0.0), ("task", 0.5)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout, name, dropout):
    operator_arguments = arguments(name, dropout, *layout)
    torch.library.opcheck(
        torch.ops.hat_kernels.gated_activation,
        operator_arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    operator_arguments = [value.detach() if isinstance(value, torch.Tensor) else value for value in operator_arguments]
    torch.library.opcheck(
        torch.ops.hat_kernels.gated_activation_backward,
        [torch.ones_like(operator_arguments[0]), *operator_arguments, True, True, name == "embedding"],
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("test", ["test_aot_dispatch_static", "test_aot_dispatch_dynamic"])
@pytest.mark.parametrize("name", ["none", "embedding"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_through_autograd(layout, name, test):
    torch.library.opcheck(torch.ops.hat_kernels.gated_activation, arguments(name, 0.0, *layout), test_utils=test)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", FORMS)
def test_compile(name, dropout):
    """One graph forward and one backward, with the numbers of the eager kernel."""
    gate = gate_of(name, 8, 6, "published")
    embedding = gate.embedding if name == "embedding" else None
    x, bias = normal((6, 8)).to(DEVICE), normal((8,), seed=1).to(DEVICE)

    def step(x, bias, embedding):
        form = gate
        if embedding is not None:
            form = GateForm(embedding=embedding, scale=gate.scale, compensation=gate.compensation)
        y = hat_kernels.gated_activation(2 * x, bias, dropout=dropout, gate=form)
        return y * y

    def gradients(function):
        leaves = [t.clone().requires_grad_() for t in (x, bias, embedding) if t is not None]
        torch.manual_seed(0)
        y = function(*leaves, *([None] if embedding is None else []))
        return [y, *torch.autograd.grad(y.sum(), leaves)]

    with hat_kernels.backend("triton"):
        expected = gradients(step)
        torch._dynamo.reset()
        actual = gradients(torch.compile(step, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_x_as_it_is(dtype):
    x, gate = normal((6, 8)).to(DEVICE), gate_of("embedding", 8, 6)
    with hat_kernels.backend("triton"):
        plain = hat_kernels.gated_activation(x, gate=gate)
        with torch.autocast(DEVICE, dtype=dtype):
            assert torch.equal(hat_kernels.gated_activation(x, gate=gate), plain)
            assert hat_kernels.gated_activation(x.to(dtype), gate=gate).dtype == dtype


def test_a_second_backward_is_refused():
    x = normal((6, 8)).to(DEVICE).requires_grad_()
    with hat_kernels.backend("triton"):
        y = hat_kernels.gated_activation(x, activation="tanh")
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="gated_activation: differentiable once"):
        dx.sum().backward()


def test_a_graph_captures_it():
    if DEVICE == "cpu":
        pytest.skip("a CUDA graph needs a GPU")
    x = (normal((64, 128)).abs() + 1).to(DEVICE).requires_grad_()
    gate = gate_of("embedding", 128, 64)

    def step():
        with hat_kernels.backend("triton"):
            y = hat_kernels.gated_activation(x, dropout=0.5, gate=gate)
        return y.detach(), torch.autograd.grad(y.sum(), x)[0]

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, dx = step()
    graph.replay()
    first = y.clone()
    assert torch.equal(first != 0, dx != 0)
    graph.replay()
    assert not torch.equal(first, y)  # the seed is drawn inside the graph
