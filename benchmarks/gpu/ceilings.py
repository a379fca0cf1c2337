"""The limits of the device: bytes per second of a copy, operations per second of a matmul."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch

from benchmarks.gpu.device import MEBIBYTE, Device
from benchmarks.gpu.timing import measure, stream
from benchmarks.measure import quantiles

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Ceilings:
    """Rates measured just before the benchmark.

    Attributes:
        copy: bytes/s of a copy; read and written bytes both count.
        matmul: FLOP/s of a matmul of random numbers, by dtype; float32 in the precision that
            `torch.backends.cuda.matmul` is set to.
    """

    copy: float
    matmul: dict[str, float] = field(default_factory=dict)


def probe(device: Device) -> Ceilings:
    """Measure a copy of 1 GiB, and matmuls of 8192 x 8192."""
    size, side = (4096, 32) if device.dry else (1024 * MEBIBYTE, 8192)
    on = stream(device)
    source = torch.rand(size // 4, device=device.kind)
    target = torch.empty_like(source)
    copied = measure(device, {"copy": lambda: [lambda: target.copy_(source)]}, on=on)["copy"]
    rates = {}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(side, side, device=device.kind).to(dtype) for _ in range(2))
        c = torch.empty_like(a)
        calls = [partial(torch.mm, a, b, out=c)]
        timed = measure(device, {"mm": lambda calls=calls: calls}, on=on, rounds=7)["mm"]
        rates[name] = 2 * side**3 / (1e-3 * quantiles(timed.ms)["p50"])
    return Ceilings(2 * size / (1e-3 * quantiles(copied.ms)["p50"]), rates)
