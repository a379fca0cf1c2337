"""Cases of masked updates for several locked shares. The rivals are PyTorch's fused optimizers, which have no masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import hat_kernels
from benchmarks.gpu.case import Case, compile_, sets, within
from benchmarks.gpu.ceilings import DTYPES
from benchmarks.gpu.device import Device
from benchmarks.gpu.operations import half_locked, square
from benchmarks.gpu.timing import Call, Maker
from hat.units.blocks import Side, Sides, cut
from hat_kernels import Lock

LOCKED = (0.0, 0.5, 0.75, 0.9)
SGD = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
STOCK_SGD = {**SGD, "dampening": 0.0, "nesterov": False, "maximize": False, "is_first_step": False}
ADAMW = {"lr": 1e-3, "weight_decay": 1e-2, "eps": 1e-8}
STOCK_ADAMW = {**ADAMW, "beta1": 0.9, "beta2": 0.999, "amsgrad": False, "maximize": False}


def updates(device: Device, size: int, dtype: str) -> Iterator[Case]:
    """SGD, SGD with momentum and AdamW: with every locked share for the largest size, unlocked for other sizes."""
    for locked in LOCKED if size == device.sizes[0] else LOCKED[:1]:
        yield _sgd(device, size, dtype, locked, momentum=False)
        yield _sgd(device, size, dtype, locked, momentum=True)
        yield _adamw(device, size, dtype, locked)


def embeddings(device: Device, size: int, dtype: str) -> Iterator[Case]:
    """The update of all embeddings of a deep network in one launch. The cost of launches limits it, not the bytes."""
    if dtype != "fp32" or size != device.sizes[0]:
        return
    gates, units = (2, 8) if device.dry else (64, 2000)

    def calls(function: Callable[..., object], context: Any) -> list[Call]:
        def vectors() -> list[Tensor]:
            return [torch.randn(units, device=device.kind) for _ in range(gates)]

        arguments = vectors(), vectors(), []
        return [within(context, partial(function, *arguments, lr=1e-3))]

    yield Case(
        operation="embedding_update_",
        shape=f"{gates} gates of {units}",
        dtype=dtype,
        bytes=3 * 4.0 * gates * units,
        variants=_ways(device, hat_kernels.embedding_update_, calls),
    )


def _sgd(device: Device, size: int, dtype: str, locked: float, *, momentum: bool) -> Case:
    options = SGD if momentum else {**SGD, "momentum": 0.0}
    tensors = 3 if momentum else 2
    make = partial(_tensors, device, size, dtype, tensors)
    lock = [_lock(device, size, dtype, locked)]

    def calls(function: Callable[..., object], context: Any) -> list[Call]:
        return [within(context, partial(function, [p], [g], b, lock, **options)) for p, g, *b in make()]

    def blocks() -> list[Call]:
        parts = [_parts(tensors, lock[0]) for tensors in make()]
        return [
            within(device.ours, partial(hat_kernels.sgd_update_, p, g, b[0] if b else [], locks, **options))
            for locks, p, g, *b in parts
        ]

    def stock() -> list[Call]:
        return [partial(torch._fused_sgd_, [p], [g], b, **{**STOCK_SGD, **options}) for p, g, *b in make()]

    return Case(
        operation=f"sgd_update_{', momentum' if momentum else ''}",
        shape=" x ".join(map(str, square(device, size, dtype))),
        dtype=dtype,
        size=size,
        locked=locked,
        bytes=(5 if momentum else 3) * size * (1 - locked**2),
        variants={
            **_ways(device, hat_kernels.sgd_update_, calls),
            **({"ours, free blocks": blocks} if locked else {}),
            "torch._fused_sgd_": stock,
        },
    )


def _adamw(device: Device, size: int, dtype: str, locked: float) -> Case:
    make = partial(_tensors, device, size, dtype, 4)
    lock = [_lock(device, size, dtype, locked)]

    def steps() -> Tensor:
        return torch.ones((), device=device.kind)

    def calls(function: Callable[..., object], context: Any) -> list[Call]:
        return [
            within(context, partial(function, [p], [g], [m], [v.abs_()], [], [steps()], lock, **ADAMW))
            for p, g, m, v in make()
        ]

    def blocks() -> list[Call]:
        parts = [_parts([p, g, m, v.abs_()], lock[0]) for p, g, m, v in make()]
        return [
            within(device.ours, partial(hat_kernels.adamw_update_, *lists, [], [steps()] * len(locks), locks, **ADAMW))
            for locks, *lists in parts
        ]

    def stock() -> list[Call]:
        return [
            partial(torch._fused_adamw_, [p], [g], [m], [v.abs_()], [], [steps()], **STOCK_ADAMW)
            for p, g, m, v in make()
        ]

    return Case(
        operation="adamw_update_",
        shape=" x ".join(map(str, square(device, size, dtype))),
        dtype=dtype,
        size=size,
        locked=locked,
        bytes=7 * size * (1 - locked**2),
        variants={
            **_ways(device, hat_kernels.adamw_update_, calls),
            **({"ours, free blocks": blocks} if locked else {}),
            "torch._fused_adamw_": stock,
        },
    )


def _ways(device: Device, function: Callable[..., object], calls: Callable[..., list[Call]]) -> dict[str, Maker]:
    reference = partial(hat_kernels.backend, "reference")
    return {
        "ours": lambda: calls(function, device.ours),
        "reference": lambda: calls(function, reference),
        "compiled reference": lambda: calls(compile_(device, function), reference),
    }


def _parts(tensors: list[Tensor], lock: Lock) -> tuple[Any, ...]:
    """The arguments that an optimizer of `hat.optim` passes: locks, parameters, gradients, states of the free blocks.

    Parameters and gradients are views of the whole tensors. States are copies, because they exist for free blocks only.

    Args:
        tensors: the parameter, its gradient, and its states.
        lock: the lock of the parameter.
    """
    sides = [None if free is None else _in_order(free) for free in lock[:2]]
    blocks = Sides(*sides).blocks(tensors[0])
    parameter, grad, *states = tensors
    lists = [cut(parameter, blocks), cut(grad, blocks), *([part.clone() for part in cut(s, blocks)] for s in states)]
    return [block.lock for block in blocks], *lists


def _in_order(free: Tensor) -> Side:
    locked = int((free == 0).sum())
    assert not free[:locked].any()
    return Side(free, locked=locked, in_order=True)


def _tensors(device: Device, size: int, dtype: str, count: int) -> Iterator[list[Tensor]]:
    """Sets of a parameter, its gradient and its states. All have one dtype, as in PyTorch's optimizers."""
    shape = square(device, size, dtype)
    for _ in range(sets(device, count * size)):
        yield [torch.randn(shape, device=device.kind).to(DTYPES[dtype]) for _ in range(count)]


def _lock(device: Device, size: int, dtype: str, locked: float) -> Any:
    return half_locked(device, square(device, size, dtype), locked) if locked else None
