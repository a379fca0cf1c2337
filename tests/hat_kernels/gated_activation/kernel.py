"""A check of the kernels of gated_activation against the reference, on poisoned outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import hat_kernels
from hat_kernels import GateForm
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.forms import form, tensors_of, with_tensors
from tests.hat_kernels.poison import poisoned
from tests.hat_kernels.tolerance import error


def gate_of(name: str, units: int, batch: int, compensation: str = "none") -> GateForm | None:
    """The arguments of a form, on the device of the tests."""
    gate = form(name, units, batch)
    if gate is None:
        return None
    on_device = (tensor if tensor is None else tensor.to(DEVICE) for tensor in tensors_of(gate))
    return GateForm(*on_device, compensation=compensation)


def results(x: Tensor, bias: Tensor | None, dy: Tensor, gate: GateForm | None, options: dict[str, Any]) -> list[Tensor]:
    """[y, dx, dbias, dembedding], the last two where there is such an input; with the backend that is set."""
    embedding = None if gate is None else gate.embedding
    leaves = [leaf.detach().requires_grad_() for leaf in (x, bias, embedding) if leaf is not None]
    if embedding is not None:
        gate = gate._replace(embedding=leaves[-1])
    y = hat_kernels.gated_activation(leaves[0], leaves[1] if bias is not None else None, gate=gate, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def kernel_results(x: Tensor, bias: Tensor | None, dy: Tensor, gate: GateForm | None, options: Any) -> list[Tensor]:
    with hat_kernels.backend("triton"), poisoned():
        return results(x, bias, dy, gate, options)


def check(x: Tensor, bias: Tensor | None, dy: Tensor, gate: GateForm | None, **options: Any) -> list[Tensor]:
    """Check that y and each gradient are as near to float64 as those of the reference; return those of the kernel."""
    actual = kernel_results(x, bias, dy, gate, options)

    def reference(x: Tensor, bias: Tensor | None, dy: Tensor, *tensors: Tensor | None) -> list[Tensor]:
        with hat_kernels.backend("reference"):
            return results(x, bias, dy, with_tensors(gate, tensors), options)

    for index, result in enumerate(actual):  # each by itself, with the tolerance of its dtype
        run = functools.partial(_one, reference, index)
        inputs = [x, bias, dy, *tensors_of(gate)]
        precise, allowed = error(run, result.dtype, *inputs)
        if index >= 2 and result.numel():
            # n additions in any order have an error of about sqrt(n) roundings, as a random walk.
            terms = x.numel() // result.numel()
            allowed += terms**0.5 * torch.finfo(torch.float32).eps / 2 * precise.abs().max().item()
        assert result.shape == precise.shape
        difference = (result.double() - precise).abs().max().item() if result.numel() else 0.0
        assert difference <= allowed, f"result {index}: off by {difference:g}, allowed {allowed:g}"
    return actual


def _one(reference: Callable[..., list[Tensor]], index: int, *inputs: Any) -> Tensor:
    return reference(*inputs)[index]
