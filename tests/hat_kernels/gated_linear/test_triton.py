"""The matmul with the fused epilogue against the reference."""

import pytest
import torch

import hat_kernels
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.forms import FORMS
from tests.hat_kernels.gated_activation.kernel import gate_of
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.shapes import normal
from tests.hat_kernels.tolerance import assert_as_accurate

pytest.importorskip("triton")


def results(x, weight, bias, dy, *rest, options, names=(), backend="reference"):
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    with hat_kernels.backend(backend):
        y = hat_kernels.gated_linear(*leaves, **options, **dict(zip(names, rest, strict=True)))
        return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 7, 5), (33, 65, 129), (0, 5, 3), (4, 0, 3), (4, 5, 0)])
@pytest.mark.parametrize("name", FORMS)
def test_as_accurate_as_the_reference(name, sizes):
    batch, inputs, units = sizes
    gate = gate_of(name, units, batch)
    tensors = {key: gate.pop(key) for key in ("embedding", "scale", "mask") if key in gate}
    shapes = [(batch, inputs), (units, inputs), (units,), (batch, units)]
    given = [normal(shape, seed=seed).to(DEVICE) for seed, shape in enumerate(shapes)] + list(tensors.values())
    got = results(*given, options=gate, names=tensors, backend="triton")
    assert_as_accurate(got, lambda *inputs: results(*inputs, options=gate, names=tensors), *given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    """The matmul in half precision, bias and gradients of the parameters in theirs."""
    leaves = [normal(shape, seed=seed).to(DEVICE).requires_grad_() for seed, shape in enumerate([(5, 6), (4, 6), (4,)])]
    with hat_kernels.backend("triton"), torch.autocast(DEVICE, dtype=dtype):
        y = hat_kernels.gated_linear(*leaves, **gate_of("embedding", 4, 5))
    assert y.dtype == dtype
    assert [g.dtype for g in torch.autograd.grad(y.sum(), leaves)] == [torch.float32] * 3


def test_one_launch_and_leading_dimensions():
    x, weight, mask = normal((2, 3, 5)).to(DEVICE), normal((7, 5), seed=1).to(DEVICE), torch.ones(7, device=DEVICE)
    with hat_kernels.backend("triton"), count_launches() as launches:
        y = hat_kernels.gated_linear(x, weight, mask=mask)
    assert launches == {"gated_activation_rows_forward": 1}
    torch.testing.assert_close(y, torch.relu(torch.nn.functional.linear(x, weight)))
