"""The kernel beside the reference, outputs poisoned, for the tests of this operation's kernels."""

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
    """A form on the test device."""
    gate = form(name, units, batch)
    if name == "embedding":
        gate["compensation"] = compensation
    return {key: value.to(DEVICE) if isinstance(value, Tensor) else value for key, value in gate.items()}


def results(
    x: Tensor, bias: Tensor | None, dy: Tensor, embedding: Tensor | None, options: dict[str, Any]
) -> list[Tensor]:
    """[y, dx, dbias, dembedding], the last two where there is such an input; under the backend that is set."""
    leaves = [leaf.detach().requires_grad_() for leaf in (x, bias, embedding) if leaf is not None]
    rest = leaves[1:]
    y = hat_kernels.gated_activation(
        leaves[0],
        rest.pop(0) if bias is not None else None,
        embedding=rest.pop(0) if embedding is not None else None,
        **options,
    )
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def kernel_results(x: Tensor, bias: Tensor | None, dy: Tensor, embedding: Tensor | None, options: Any) -> list[Tensor]:
    with hat_kernels.backend("triton"), poisoned():
        return results(x, bias, dy, embedding, options)


def check(x: Tensor, bias: Tensor | None, dy: Tensor, gate: dict[str, Any], **options: Any) -> list[Tensor]:
    """Forward and every gradient as near to float64 as the reference is; returns what the kernel made."""
    options |= {key: value for key, value in gate.items() if not isinstance(value, Tensor) or key == "task"}
    tensors = {key: value for key, value in gate.items() if key not in options}
    embedding = tensors.pop("embedding", None)
    got = kernel_results(x, bias, dy, embedding, options | tensors)

    def reference(x: Tensor, bias: Tensor | None, dy: Tensor, embedding: Tensor | None, *rest: Tensor) -> list[Tensor]:
        with hat_kernels.backend("reference"):
            return results(x, bias, dy, embedding, options | dict(zip(tensors, rest, strict=True)))

    for index, result in enumerate(got):  # one by one: each is judged in its own dtype
        run = functools.partial(_one, reference, index)
        inputs = [x, bias, dy, embedding, *tensors.values()]
        precise, allowed = error(run, result.dtype, *inputs)
        if index >= 2 and result.numel():  # n additions in any order: sqrt(n) roundings, as a random walk has it
            terms = x.numel() // result.numel()
            allowed += terms**0.5 * torch.finfo(torch.float32).eps / 2 * precise.abs().max().item()
        assert result.shape == precise.shape
        difference = (result.double() - precise).abs().max().item() if result.numel() else 0.0
        assert difference <= allowed, f"result {index}: off by {difference:g}, allowed {allowed:g}"
    return got


def _one(reference: Callable[..., list[Tensor]], index: int, *inputs: Any) -> Tensor:
    return reference(*inputs)[index]
