"""A check of the kernels of gated_activation against the reference, on poisoned outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import hat_kernels
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.forms import form
from tests.hat_kernels.poison import poisoned
from tests.hat_kernels.tolerance import error


def gate_of(name: str, units: int, batch: int, compensation: str = "none") -> dict[str, Any]:
    """The arguments of a form, on the device of the tests."""
    gate = form(name, units, batch)
    if name == "embedding":
        gate["compensation"] = compensation
    return {key: value.to(DEVICE) if isinstance(value, Tensor) else value for key, value in gate.items()}


def results(
    x: Tensor, bias: Tensor | None, dy: Tensor, embedding: Tensor | None, options: dict[str, Any]
) -> list[Tensor]:
    """[y, dx, dbias, dembedding], the last two where there is such an input; with the backend that is set."""
    leaves = [leaf.detach().requires_grad_() for leaf in (x, bias, embedding) if leaf is not None]
    other_leaves = leaves[1:]
    y = hat_kernels.gated_activation(
        leaves[0],
        other_leaves.pop(0) if bias is not None else None,
        embedding=other_leaves.pop(0) if embedding is not None else None,
        **options,
    )
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def kernel_results(x: Tensor, bias: Tensor | None, dy: Tensor, embedding: Tensor | None, options: Any) -> list[Tensor]:
    with hat_kernels.backend("triton"), poisoned():
        return results(x, bias, dy, embedding, options)


def check(x: Tensor, bias: Tensor | None, dy: Tensor, gate: dict[str, Any], **options: Any) -> list[Tensor]:
    """Check that y and each gradient are as near to float64 as those of the reference; return those of the kernel."""
    options |= {key: value for key, value in gate.items() if not isinstance(value, Tensor) or key == "task"}
    tensors = {key: value for key, value in gate.items() if key not in options}
    embedding = tensors.pop("embedding", None)
    actual = kernel_results(x, bias, dy, embedding, options | tensors)

    def reference(
        x: Tensor, bias: Tensor | None, dy: Tensor, embedding: Tensor | None, *other_leaves: Tensor
    ) -> list[Tensor]:
        with hat_kernels.backend("reference"):
            return results(x, bias, dy, embedding, options | dict(zip(tensors, other_leaves, strict=True)))

    for index, result in enumerate(actual):  # each by itself, with the tolerance of its dtype
        run = functools.partial(_one, reference, index)
        inputs = [x, bias, dy, embedding, *tensors.values()]
        precise, allowed = error(run, result.dtype, *inputs)
        if (
            index >= 2 and result.numel()
        ):  # n additions in any order have an error of about sqrt(n) roundings, as a random walk
            terms = x.numel() // result.numel()
            allowed += terms**0.5 * torch.finfo(torch.float32).eps / 2 * precise.abs().max().item()
        assert result.shape == precise.shape
        difference = (result.double() - precise).abs().max().item() if result.numel() else 0.0
        assert difference <= allowed, f"result {index}: off by {difference:g}, allowed {allowed:g}"
    return actual


def _one(reference: Callable[..., list[Tensor]], index: int, *inputs: Any) -> Tensor:
    return reference(*inputs)[index]
