"""A check of the kernels of gated_linear against the reference, on poisoned outputs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import hat_kernels
from hat_kernels import GateForm
from hat_kernels.gated_linear import choice
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.forms import tensors_of, with_tensors
from tests.hat_kernels.poison import poisoned
from tests.hat_kernels.shapes import normal
from tests.hat_kernels.tolerance import error

PASSES = ("forward", "dx", "dw", "update")


def inputs(m: int, k: int, n: int, dtype: torch.dtype = torch.float32, bias: bool = True) -> list[Any]:
    """[x, weight, bias, dy]; sums are of order 1, so that they do not overflow in float16."""
    size = max(k, 1) ** -0.5
    x, weight = normal((m, k), dtype).to(DEVICE), (normal((n, k), torch.float32, 1) * size).to(DEVICE, dtype)
    return [x, weight, normal((n,), dtype, 2).to(DEVICE) if bias else None, normal((m, n), dtype, 3).to(DEVICE)]


def results(
    x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor, gate: GateForm | None, options: dict[str, Any]
) -> list[Tensor]:
    """[y, dx, dweight, dbias, dembedding], the last two where there is such an input; with the backend that is set."""
    embedding = None if gate is None else gate.embedding
    leaves = [leaf.detach().requires_grad_() for leaf in (x, weight, bias, embedding) if leaf is not None]
    if embedding is not None:
        gate = gate._replace(embedding=leaves[-1])
    y = hat_kernels.gated_linear(*leaves[:2], leaves[2] if bias is not None else None, gate=gate, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def check(
    x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor, gate: GateForm | None, **options: Any
) -> list[Tensor]:
    """Check that y and each gradient are as near to float64 as those of the reference; return those of the kernels."""
    with hat_kernels.backend("triton"), poisoned():
        actual = results(x, weight, bias, dy, gate, options)

    def reference(x: Any, weight: Any, bias: Any, dy: Any, *tensors: Tensor | None) -> list[Tensor]:
        with hat_kernels.backend("reference"):
            return [part.clone() for part in results(x, weight, bias, dy, with_tensors(gate, tensors), options)]

    arguments = [x, weight, bias, dy, *tensors_of(gate)]
    for index, result in enumerate(actual):  # each by itself, with the tolerance of its dtype
        precise, allowed = error(functools.partial(_one, reference, index), result.dtype, *arguments)
        # The kernels round z and dz to the dtype, and add in another order.
        allowed += rounding(result, x, weight, dy) * precise.abs().max().item() if result.numel() else 0.0
        assert result.shape == precise.shape
        difference = (result.double() - precise).abs().max().item() if result.numel() else 0.0
        assert difference <= allowed, f"result {index}: off by {difference:g}, allowed {allowed:g}"
    return actual


def rounding(result: Tensor, x: Tensor, weight: Tensor, dy: Tensor) -> float:
    """Two roundings of an operand, and n additions in any order: about sqrt(n) roundings, as a random walk."""
    terms = max(*x.shape, *weight.shape, *dy.shape)
    return 2 * torch.finfo(x.dtype).eps + terms**0.5 * torch.finfo(torch.float32).eps / 2


@contextlib.contextmanager
def chosen(name: str, purposes: tuple[str, ...] = PASSES) -> Iterator[None]:
    """Inside the block, the table says that `name` is the fastest for these passes, for each shape."""
    measured = _Everywhere(name, purposes)
    with mock.patch.object(choice, "table", return_value=measured):
        yield


class _Everywhere(dict):
    def __init__(self, name: str, purposes: tuple[str, ...]) -> None:
        super().__init__({("forward", "fp32", "1x1x1"): name})
        self.name, self.purposes = name, purposes

    def get(self, key: Any, default: Any = None) -> Any:
        return self.name if key[0] in self.purposes else default


def _one(reference: Callable[..., list[Tensor]], index: int, *given: Any) -> Tensor:
    return reference(*given)[index]
