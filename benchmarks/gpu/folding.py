"""Cases of folded gates: both passes over a weight, and a layer with a pool, with its gate folded and not folded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

import hat
import hat_kernels
from benchmarks.gpu.case import Case, backward, compile_, sets, three_ways, within
from benchmarks.gpu.ceilings import DTYPES
from benchmarks.gpu.device import Device
from benchmarks.gpu.operations import REFERENCE, square
from benchmarks.gpu.timing import Call, Maker
from benchmarks.workload import S_MAX
from hat_kernels import GateForm


def folded_weight(device: Device, size: int, dtype: str) -> Iterator[Case]:
    """A weight and its gate. A float32 weight is also folded to bfloat16, as in mixed precision."""
    if dtype == "fp16":  # float16 has no 2^-32
        return
    yield from _folded_weight(device, size, dtype, DTYPES[dtype])
    if dtype == "fp32":
        yield from _folded_weight(device, size, dtype, torch.bfloat16)


def _folded_weight(device: Device, size: int, dtype: str, narrow: torch.dtype) -> Iterator[Case]:
    (rows, columns), kind = square(device, size, dtype), DTYPES[dtype]
    folded = size * narrow.itemsize // kind.itemsize

    def inputs(grad: bool) -> Iterator[tuple[Tensor, ...]]:
        for _ in range(sets(device, size + folded)):
            weight = torch.randn(rows, columns, device=device.kind).to(kind)
            embedding, scale = torch.randn(rows, device=device.kind), torch.tensor(10.0, device=device.kind)
            yield weight.requires_grad_(grad), embedding.requires_grad_(grad), scale

    def forward(weight: Tensor, embedding: Tensor, scale: Tensor) -> Tensor:
        gate = GateForm(embedding=embedding, scale=scale, s_max=S_MAX)
        return hat_kernels.folded_weight(weight, gate=gate, dtype=narrow)[0]

    name = "folded_weight" if narrow == kind else "folded_weight to bf16"
    common = {"shape": f"{rows} x {columns}", "dtype": dtype, "size": size}
    variants = three_ways(device, forward, lambda: list(inputs(False)))
    yield Case(operation=f"{name}, forward", bytes=size + folded, variants=variants, **common)
    passes = {
        "ours": backward(device.ours, forward, partial(inputs, True)),
        "reference": backward(REFERENCE, forward, partial(inputs, True)),
        "compiled reference": lambda: backward(REFERENCE, compile_(device, forward), partial(inputs, True))(),
    }
    yield Case(operation=f"{name}, backward", bytes=2 * size + folded, variants=passes, **common)


def pooled_convolution(device: Device, size: int, dtype: str) -> Iterator[Case]:
    """A 3 x 3 convolution with ReLU, pool and gate, forward and backward, channels last.

    The gate is folded (`ours`) or not folded (`unfolded`). The variant `plain` has no gate.
    """
    if dtype == "fp16" or size != device.sizes[0]:
        return
    batch, channels, side = (2, 4, 8) if device.dry else (256, 64, 56)
    kind = DTYPES[dtype]

    def gated(fold: str) -> nn.Module:
        layer = hat.HATConv2d(channels, channels, 3, padding=1, pool=nn.MaxPool2d(2))
        layer.gate.state.config = hat.GateConfig(fold=fold, s_max=S_MAX)
        layer.gate.state.set_progress(0.025)
        return layer

    def plain() -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))

    def calls(make: Callable[[], nn.Module]) -> list[Call]:
        layer = make()
        layer.to(device.kind, kind, memory_format=torch.channels_last)
        x = torch.randn(batch, channels, side, side, device=device.kind).to(kind, memory_format=torch.channels_last)
        x.requires_grad_()
        leaves = [x, *layer.parameters()]
        with device.ours():
            upstream = torch.randn_like(layer(x))
        return [within(device.ours, lambda: torch.autograd.grad(layer(x), leaves, upstream))]

    variants: dict[str, Maker] = {
        "ours": partial(calls, partial(gated, "always")),
        "unfolded": partial(calls, partial(gated, "never")),
        "plain": partial(calls, plain),
    }
    rows, weight = batch * side * side, 9 * channels * channels
    activations = (3 + 2 / 4) * rows * channels  # forward: x and y; backward: x, dy and dx
    yield Case(
        operation="conv 3 x 3, ReLU, pool and gate, forward and backward",
        shape=f"{batch} x {channels} x {side} x {side}",
        dtype=dtype,
        size=size,
        bytes=kind.itemsize * (activations + 5 * weight),
        flops=6.0 * rows * weight,
        variants=variants,
    )


FOLDING = (folded_weight, pooled_convolution)
