"""One comparison: an operation at a size and dtype, as several variants compute it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

import hat_kernels
from benchmarks.gpu.device import Device
from benchmarks.gpu.timing import Call, Maker


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compared, and what it must do at the least.

    Attributes:
        operation: name of the operation and what of it.
        shape: of the main tensor, in words.
        dtype: of the main tensor.
        bytes: each input read once, each output written once; locked elements not at all.
        flops: of matmuls; 0 for an operation bound by memory.
        size: bytes of the main tensor, for the plot.
        locked: share of both axes that is locked.
        variants: makers of the calls, `ours` among them.
    """

    operation: str
    shape: str
    dtype: str
    bytes: float
    flops: float = 0.0
    size: int = 0
    locked: float = 0.0
    variants: dict[str, Maker] = field(default_factory=dict)


def sets(device: Device, size: int) -> int:
    """How many sets of inputs of `size` bytes repeated calls rotate through."""
    return max(1, min(32, device.rotation // max(size, 1)))


def within(context: Callable[[], AbstractContextManager[None]], call: Call) -> Call:
    """The call under a context, as for the choice of a backend."""

    def run() -> object:
        with context():
            return call()

    return run


def three_ways(
    device: Device, function: Callable[..., object], inputs: Callable[[], Sequence[tuple]]
) -> dict[str, Maker]:
    """A function of hat_kernels as kernel, as eager reference, and as compiled reference, each on inputs of its own."""

    def calls(context: Callable[[], AbstractContextManager[None]], compiled: bool) -> list[Call]:
        chosen = compile_(device, function) if compiled else function
        return [within(context, partial(chosen, *arguments)) for arguments in inputs()]

    reference = partial(hat_kernels.backend, "reference")
    return {
        "ours": lambda: calls(device.ours, False),
        "reference": lambda: calls(reference, False),
        "compiled reference": lambda: calls(reference, True),
    }


def compile_(device: Device, function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile`, whose backward may run more than once on one forward; traced only in a dry run."""
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False, backend="aot_eager" if device.dry else "inductor")


def backward(
    context: Callable[[], AbstractContextManager[None]],
    forward: Callable[..., Tensor],
    inputs: Callable[[], Iterator[tuple[Tensor, ...]]],
) -> Maker:
    """Calls of the backward pass alone; the forward runs when they are made."""

    def make() -> list[Call]:
        found: list[Call] = []
        for arguments in inputs():
            leaves = [argument for argument in arguments if argument.requires_grad]
            with context():
                y = forward(*arguments)
            upstream = torch.randn_like(y)
            found.append(within(context, partial(torch.autograd.grad, y, leaves, upstream, retain_graph=True)))
        return found

    return make
