"""What a HAT step has to do at the least, by formula, and how fast this machine does such things.

Counted are matmuls and convolutions, and the bytes that cannot be avoided when no cache holds them: weights and
activations, not the gradient of a weight, which need never be stored for plain SGD. Locked weights need no gradient
and no update.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from benchmarks.plain import kernels
from benchmarks.step import PHASES
from benchmarks.workload import Network

BYTES = 4  # float32


@dataclass(frozen=True)
class LayerCost:
    """One matmul: `positions` rows a sample, `inputs` x `units` weights, activations before and after pooling.

    `free` is the share of its weights that may still move.
    """

    positions: int
    inputs: int
    units: int
    before: int
    after: int
    free: float
    first: bool = False

    @property
    def weights(self) -> int:
        return self.inputs * self.units

    def phases(self, batch: int) -> dict[str, tuple[float, float]]:
        """(FLOPs, values moved) of every phase.

        Forward: one matmul, weights and inputs read, outputs written. Backward: the gradient of the inputs, which a
        first layer does not need, and of the free weights; the gradient of the outputs and the inputs read. Update: the
        free weights, read and written.
        """
        matmul, deeper = 2.0 * batch * self.positions * self.weights, not self.first
        activations = batch * (self.before + self.after)
        return {
            "forward": (matmul, self.weights + activations),
            "backward": (matmul * (deeper + self.free), deeper * (self.weights + batch * self.before) + activations),
            "update": (0.0, 2 * self.free * self.weights),
        }


def layers(network: Network, locked: float) -> list[LayerCost]:
    """The layers of a network of which the share `locked` of every gate's units is used by earlier tasks."""
    found: list[LayerCost] = []
    inputs, size = network.input_shape[0], network.input_shape[-1]
    for units, kernel in zip(network.channels, kernels(size), strict=False):
        out = size - kernel + 1
        before, after = inputs * size * size, units * (out // 2) ** 2
        free = 1 - locked * (locked if found else 1)
        found.append(LayerCost(out * out, inputs * kernel * kernel, units, before, after, free, not found))
        inputs, size = units, out // 2
    inputs *= size * size if network.channels else 1
    for units in network.hidden:
        free = 1 - locked * (locked if found else 1)
        found.append(LayerCost(1, inputs, units, inputs, units, free, not found))
        inputs = units
    return [*found, LayerCost(1, inputs, network.classes, inputs, network.classes, 1.0)]


@dataclass(frozen=True)
class Machine:
    """Rates measured just before the benchmark: FLOP/s of a matmul, bytes/s of a copy (read and written)."""

    flops: float
    bandwidth: float


def phases(network: Network, batch: int, locked: float) -> dict[str, dict[str, float]]:
    """`flops` and `bytes` of every phase of one step."""
    parts = [layer.phases(batch) for layer in layers(network, locked)]
    sums = {phase: [sum(column) for column in zip(*(p[phase] for p in parts), strict=True)] for phase in PHASES}
    return {phase: {"flops": flops, "bytes": BYTES * moved} for phase, (flops, moved) in sums.items()}


def count(network: Network, batch: int, locked: float) -> dict[str, float]:
    """`flops` and `bytes` of one step."""
    parts = phases(network, batch, locked).values()
    return {"flops": sum(p["flops"] for p in parts), "bytes": sum(p["bytes"] for p in parts)}


def seconds(counted: Mapping[str, float], machine: Machine) -> float:
    """The larger of arithmetic and traffic: what no implementation on this machine can beat by much."""
    return max(counted["flops"] / machine.flops, counted["bytes"] / machine.bandwidth)


def floor(network: Network, batch: int, locked: float, machine: Machine) -> float:
    """`seconds` of one step."""
    return seconds(count(network, batch, locked), machine)


def memory(network: Network, batch: int) -> dict[str, float]:
    """`state_bytes`, the weights; `step_bytes`, the input of every layer, which its weights' gradient needs."""
    parts = layers(network, 0.0)
    return {
        "state_bytes": float(BYTES * sum(p.weights for p in parts)),
        "step_bytes": float(BYTES * batch * sum(p.before for p in parts)),
    }


def probe() -> Machine:
    """Measure a 1024 x 2048 x 2048 matmul and a copy of 256 MiB, float32; the 80th percentile of the rate counts."""
    a, b = torch.rand(1024, 2048), torch.rand(2048, 2048)
    c = torch.empty(1024, 2048)
    source, target = torch.rand(1 << 26), torch.empty(1 << 26)
    matmul = _seconds(lambda: torch.mm(a, b, out=c))
    copy = _seconds(lambda: target.copy_(source))
    return Machine(2 * 1024 * 2048 * 2048 / matmul, 2 * BYTES * source.numel() / copy)


def _seconds(call: Callable[[], object], repeats: int = 10) -> float:
    """The 20th percentile of ten calls: a rate of the machine, not of what else runs on it."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.quantiles(times, n=5)[0]
