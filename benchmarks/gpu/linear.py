"""The gated linear layer: its time compared with a plain layer, and the fastest kernel of every pass."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import hat_kernels
from benchmarks.gpu.case import Case, compile_, within
from benchmarks.gpu.ceilings import DTYPES
from benchmarks.gpu.device import Device
from benchmarks.gpu.timing import Call, Maker, measure, summary
from benchmarks.workload import S_MAX
from hat_kernels import GateForm, Lock
from hat_kernels.gated_linear import choice
from hat_kernels.gated_linear.blocks import blocks_of

Shape = tuple[int, int, int]  # batch, inputs, units

REFERENCE = partial(hat_kernels.backend, "reference")
PAPER: list[Shape] = [(256, 2000, 2000), (64, 2000, 2000), (64, 784, 2000)]
_MIB = 1 << 20
_SHAPES: dict[int, list[Shape]] = {
    256 * _MIB: [(8192, 4096, 4096)],
    64 * _MIB: [(4096, 2048, 2048)],
    16 * _MIB: [(1024, 2048, 2048), *PAPER],
}
TINY: dict[int, list[Shape]] = {2048: [(4, 8, 8)], 1024: [(2, 4, 4)]}


def gated_linear(device: Device, size: int, dtype: str) -> Iterator[Case]:
    """The matmul with its epilogue, forward and backward, compared with a plain linear layer with ReLU."""
    for shape in (TINY if device.dry else _SHAPES)[size]:
        if shape not in PAPER or dtype != "fp16":
            yield _case(device, size, dtype, shape)


def _case(device: Device, size: int, dtype: str, shape: Shape) -> Case:
    kind, (m, k, n) = DTYPES[dtype], shape

    def ours(x: Tensor, weight: Tensor, bias: Tensor, embedding: Tensor, scale: Tensor) -> Tensor:
        gate = GateForm(embedding=embedding, scale=scale, s_max=S_MAX)
        return hat_kernels.gated_linear(x, weight, bias, gate=gate)

    def plain(x: Tensor, weight: Tensor, bias: Tensor, embedding: Tensor, scale: Tensor) -> Tensor:
        return F.relu(F.linear(x, weight, bias))

    def both(forward: Callable[..., Tensor], context: Any) -> list[Call]:
        arguments = [t.requires_grad_() for t in _leaves(device, dtype, shape)]
        scale = torch.tensor(10.0, device=device.kind)
        upstream = torch.randn(m, n, device=device.kind).to(kind)
        leaves = arguments[: 3 if forward is plain else 4]
        return [within(context, lambda: torch.autograd.grad(forward(*arguments, scale), leaves, upstream))]

    return Case(
        operation="gated_linear, forward and backward",
        shape=f"{m} x {k} x {n}",
        dtype=dtype,
        size=size,
        bytes=kind.itemsize * (4 * m * k + 4 * n * k + 3 * m * n),
        flops=6.0 * m * k * n,
        variants={
            "ours": lambda: both(ours, device.ours),
            "ours, all kernels": lambda: both(ours, partial(hat_kernels.backend, "triton")),
            "plain": lambda: both(plain, REFERENCE),
            "reference": lambda: both(ours, REFERENCE),
            "compiled reference": lambda: both(compile_(device, ours), REFERENCE),
        },
    )


class Measured(NamedTuple):
    """The times of one pass with one shape, for every block and the vendor's matmul.

    Attributes:
        key: the key in the table of the fastest kernels.
        fastest: the name of the fastest kernel, the entry in the table.
        rows: one row per kernel for the results file.
    """

    key: choice.Key
    fastest: str
    rows: list[dict[str, Any]]


def choices(device: Device, on: Any, seconds: float, rounds: int) -> Iterator[Measured]:
    """Time every block and the vendor's matmul for every pass, until the time is over."""
    deadline = time.monotonic() + seconds
    shapes = list(dict.fromkeys(s for size_shapes in (TINY if device.dry else _SHAPES).values() for s in size_shapes))
    for kind in ("fp32",) if device.dry else ("fp32", "bf16", "tf32", "fp16"):
        for shape in shapes[:1] if device.dry else shapes:
            for purpose in choice.PASSES:
                if time.monotonic() > deadline:
                    return
                yield _measured(device, on, rounds, kind, shape, purpose)


def _measured(device: Device, on: Any, rounds: int, kind: str, shape: Shape, purpose: str) -> Measured:
    m, k, n = shape
    key = purpose, kind, choice.shape_class(m, n, k)
    calls = _passes(device, {"tf32": "fp32"}.get(kind, kind), shape)
    names = [choice.VENDOR, *blocks_of(purpose, kind)]
    with _precision(kind):
        variants: dict[str, Maker] = {name: partial(_with_block, key, name, calls[purpose]) for name in names}
        timed = measure(device, variants, rounds=rounds, on=on)
    summaries = {name: summary(times) for name, times in timed.items()}
    medians = {name: row["ms"]["p50"] for name, row in summaries.items() if "ms" in row}
    common = {"part": "choice", "operation": f"gated_linear, {purpose}", "shape": f"{m} x {k} x {n}", "dtype": kind}
    rows = [{**common, "variant": name, **row} for name, row in summaries.items()]
    return Measured(key, min(medians, key=medians.__getitem__, default=choice.VENDOR), rows)


def _with_block(key: choice.Key, name: str, call: Call) -> list[Call]:
    """The call, with the block `name` as the choice for the pass."""
    return [within(partial(choice.measuring, {key: name}), call)]


def _passes(device: Device, dtype: str, shape: Shape) -> dict[str, Call]:
    """One call per pass of a layer with ReLU and a learned gate."""
    from hat_kernels.gated_linear import triton as kernels
    from hat_kernels.linear_update import triton as update

    m, k, n = shape
    x, weight, bias, embedding = _leaves(device, dtype, shape)
    dy = torch.randn(m, n, device=device.kind).to(DTYPES[dtype])
    gate = GateForm(embedding=embedding, scale=torch.tensor(10.0, device=device.kind), s_max=S_MAX)
    epilogue = (None, *gate, "relu", 0.0)
    _, z = kernels.gated_linear(x, weight, bias, *epilogue, 0, 0, False, True)
    lock = Lock(torch.ones(n, device=device.kind), torch.ones(k, device=device.kind))
    step = {"lr": 0.0, "weight_decay": 0.0, "maximize": False, "mend": True}
    master = weight.float()  # under autocast, the update moves float32 weights

    return {
        "forward": lambda: kernels.gated_linear(x, weight, bias, *epilogue, 0, 0, False, True),
        "dx": lambda: kernels.gated_linear_backward(dy, weight, z, bias, *epilogue, 0, False, *[True] * 4),
        "dw": lambda: kernels.gated_linear_gradient(dy, x, 0, 0, False),
        "update": within(
            partial(hat_kernels.backend, "auto"), partial(update.linear_update_, master, dy, x, lock, **step)
        ),
    }


def _leaves(device: Device, dtype: str, shape: Shape) -> list[Tensor]:
    """Make x, weight, bias and embedding."""
    m, k, n = shape
    leaves = [torch.randn(*size, device=device.kind).to(DTYPES[dtype]) for size in ((m, k), (n, k), (n,))]
    return [*leaves, torch.randn(n, device=device.kind)]


@contextlib.contextmanager
def _precision(kind: str) -> Iterator[None]:
    """Compute float32 matmuls in TF32 if `kind` is `tf32`, otherwise in full precision."""
    with ExitStack() as stack:
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
        yield
