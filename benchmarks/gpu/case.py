"""A case: an operation with a size and a dtype, in several variants that are compared."""

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
    """An operation, its variants, and the least work that any variant has to do.

    Attributes:
        operation: the name of the operation, and of the pass if it is one pass.
        shape: the shape of the main tensor, in words.
        dtype: the dtype of the main tensor.
        bytes: the least bytes to move: every input is read once, every output is written once, locked elements are
            not moved.
        flops: the FLOPs of matmuls; 0 for an operation that memory limits.
        size: the bytes of the main tensor, for the plot.
        locked: the share of both axes that is locked.
        variants: by name, functions that make the calls to time. One variant is `ours`.
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
    """The number of sets of inputs of `size` bytes. Repeated calls take turns with the sets."""
    return max(1, min(32, device.rotation // max(size, 1)))


def within(context: Callable[[], AbstractContextManager[None]], call: Call) -> Call:
    """The call inside a context, for example the choice of a backend."""

    def run() -> object:
        with context():
            return call()

    return run


def three_ways(
    device: Device, function: Callable[..., object], inputs: Callable[[], Sequence[tuple]]
) -> dict[str, Maker]:
    """Three variants of a function of hat_kernels: the kernel, the eager reference and the compiled reference.

    Args:
        device: the device.
        function: the function.
        inputs: makes the arguments of all calls; every variant gets its own arguments.
    """

    def calls(context: Callable[[], AbstractContextManager[None]], compiled: bool) -> list[Call]:
        called = compile_(device, function) if compiled else function
        return [within(context, partial(called, *arguments)) for arguments in inputs()]

    reference = partial(hat_kernels.backend, "reference")
    return {
        "ours": lambda: calls(device.ours, False),
        "reference": lambda: calls(reference, False),
        "compiled reference": lambda: calls(reference, True),
    }


def compile_(device: Device, function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with `torch.compile`, so that its backward can run several times after one forward.

    In a dry run the function is traced, but no code is generated.
    """
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False, backend="aot_eager" if device.dry else "inductor")


def backward(
    context: Callable[[], AbstractContextManager[None]],
    forward: Callable[..., Tensor],
    inputs: Callable[[], Iterator[tuple[Tensor, ...]]],
) -> Maker:
    """A maker of calls that run the backward pass only. The forward pass runs when the calls are made."""

    def make() -> list[Call]:
        calls: list[Call] = []
        for arguments in inputs():
            leaves = [argument for argument in arguments if argument.requires_grad]
            with context():
                y = forward(*arguments)
            upstream = torch.randn_like(y)
            calls.append(within(context, partial(torch.autograd.grad, y, leaves, upstream, retain_graph=True)))
        return calls

    return make
