"""Cases of single operations of hat_kernels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import hat_kernels
from benchmarks.gpu.case import Case, backward, compile_, sets, three_ways
from benchmarks.gpu.ceilings import DTYPES
from benchmarks.gpu.device import Device
from benchmarks.gpu.linear import gated_linear
from benchmarks.workload import S_MAX
from hat_kernels import GateForm, Lock

REFERENCE = partial(hat_kernels.backend, "reference")


def gated_activation(device: Device, size: int, dtype: str) -> Iterator[Case]:
    """Bias, ReLU and a learned gate on [rows, units]: one case for the forward pass, one for the backward pass."""
    kind, units = DTYPES[dtype], 32 if device.dry else 4096
    rows = size // (units * kind.itemsize)

    def inputs(grad: bool) -> Iterator[tuple[Tensor, ...]]:
        for _ in range(sets(device, 2 * size)):
            x, bias = (torch.randn(*shape, device=device.kind).to(kind) for shape in ((rows, units), (units,)))
            embedding, scale = torch.randn(units, device=device.kind), torch.tensor(10.0, device=device.kind)
            yield (*(t.requires_grad_(grad) for t in (x, bias, embedding)), scale)

    def forward(x: Tensor, bias: Tensor, embedding: Tensor, scale: Tensor) -> Tensor:
        return hat_kernels.gated_activation(x, bias, gate=GateForm(embedding=embedding, scale=scale, s_max=S_MAX))

    common = {"shape": f"{rows} x {units}", "dtype": dtype, "size": size}
    variants = three_ways(device, forward, lambda: list(inputs(False)))
    yield Case(operation="gated_activation, forward", bytes=2 * size, variants=variants, **common)
    passes = {
        "ours": backward(device.ours, forward, partial(inputs, True)),
        "reference": backward(REFERENCE, forward, partial(inputs, True)),
        "compiled reference": lambda: backward(REFERENCE, compile_(device, forward), partial(inputs, True))(),
    }
    yield Case(operation="gated_activation, backward", bytes=3 * size, variants=passes, **common)


def gate(device: Device, size: int, dtype: str) -> Iterator[Case]:
    """One long vector of gates. Gates are float32 in every network."""
    if dtype != "fp32":
        return
    count = size // 4

    def inputs() -> list[tuple[Tensor, Tensor]]:
        scale = torch.tensor(10.0, device=device.kind)
        return [(torch.randn(count, device=device.kind), scale) for _ in range(sets(device, 2 * size))]

    variants = three_ways(device, partial(hat_kernels.gate, s_max=S_MAX), inputs)
    yield Case(operation="gate, forward", shape=str(count), dtype=dtype, size=size, bytes=2 * size, variants=variants)


def square(device: Device, size: int, dtype: str) -> tuple[int, int]:
    """(rows, columns) of a weight of about `size` bytes. The number of columns is a power of two."""
    elements = size // DTYPES[dtype].itemsize
    columns = 16 if device.dry else 4096
    return elements // columns, columns


def half_locked(device: Device, shape: tuple[int, int], share: float = 0.5) -> Lock:
    """A lock on the first units of both axes.

    Args:
        device: the device.
        shape: (rows, columns) of the weight.
        share: the share of the units that is locked.
    """
    axes = []
    for units in shape:
        free = torch.ones(units, device=device.kind)
        free[: round(share * units)] = 0
        axes.append(free)
    return Lock(*axes)


def lock_gradient(device: Device, size: int, dtype: str) -> Iterator[Case]:
    """Half of both axes is locked: a quarter of the elements is written, and the other elements are not touched."""
    shape = square(device, size, dtype)
    lock = half_locked(device, shape)

    def inputs() -> list[tuple[Any, ...]]:
        return [(_random(device, shape, dtype), lock) for _ in range(sets(device, size))]

    yield Case(
        operation="lock_gradient_",
        shape=_words(shape),
        dtype=dtype,
        size=size,
        locked=0.5,
        bytes=0.25 * size,
        variants=three_ways(device, hat_kernels.lock_gradient_, inputs),
    )


def lock_update(device: Device, size: int, dtype: str) -> Iterator[Case]:
    """Half of both axes is locked: a quarter of the elements is copied back."""
    shape = square(device, size, dtype)
    lock = half_locked(device, shape)

    def inputs() -> list[tuple[Any, ...]]:
        count = sets(device, 2 * size)
        return [(_random(device, shape, dtype), _random(device, shape, dtype), lock) for _ in range(count)]

    yield Case(
        operation="lock_update_",
        shape=_words(shape),
        dtype=dtype,
        size=size,
        locked=0.5,
        bytes=0.5 * size,
        variants=three_ways(device, hat_kernels.lock_update_, inputs),
    )


def gradient_norm(device: Device, size: int, dtype: str) -> Iterator[Case]:
    """The norm of one large gradient without a lock."""
    shape = square(device, size, dtype)

    def inputs() -> list[tuple[Any, ...]]:
        return [([_random(device, shape, dtype)], [None]) for _ in range(sets(device, size))]

    variants = three_ways(device, hat_kernels.gradient_norm, inputs)
    yield Case(operation="gradient_norm", shape=_words(shape), dtype=dtype, size=size, bytes=size, variants=variants)


def _random(device: Device, shape: tuple[int, ...], dtype: str) -> Tensor:
    return torch.randn(*shape, device=device.kind).to(DTYPES[dtype])


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


OPERATIONS = (gated_activation, gated_linear, gate, lock_gradient, lock_update, gradient_norm)
