"""The least work of a HAT step, by formula, and the speed of this machine at such work.

The work is the FLOPs of matmuls and convolutions, and the bytes of weights and activations that no step can avoid to
move, as if no cache held them. The gradient of a weight is not counted, because plain SGD need not store it. Locked
weights need neither gradient nor update.
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
    """The matmul of one layer.

    Attributes:
        positions: the number of rows per sample.
        inputs: the number of inputs of a unit.
        units: the number of units.
        before: the number of input values per sample.
        after: the number of output values per sample, after pooling.
        free: the share of the weights that are not locked.
        first: the layer is the first one, which needs no gradient of its inputs.
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
        """The number of weights."""
        return self.inputs * self.units

    def phases(self, batch: int) -> dict[str, tuple[float, float]]:
        """(FLOPs, values moved) of every phase.

        Forward: one matmul; reads weights and inputs, writes outputs. Backward: the gradient of the inputs, except in a
        first layer, and the gradient of the free weights; reads the inputs and the gradient of the outputs. Update:
        reads and writes the free weights.
        """
        matmul, deeper = 2.0 * batch * self.positions * self.weights, not self.first
        activations = batch * (self.before + self.after)
        return {
            "forward": (matmul, self.weights + activations),
            "backward": (matmul * (deeper + self.free), deeper * (self.weights + batch * self.before) + activations),
            "update": (0.0, 2 * self.free * self.weights),
        }


def layers(network: Network, locked: float) -> list[LayerCost]:
    """The layers of a network in which earlier tasks use the share `locked` of every gate's units."""
    costs: list[LayerCost] = []
    inputs, size = network.input_shape[0], network.input_shape[-1]
    for units, kernel in zip(network.channels, kernels(size), strict=False):
        out = size - kernel + 1
        before, after = inputs * size * size, units * (out // 2) ** 2
        free = 1 - locked * (locked if costs else 1)
        costs.append(LayerCost(out * out, inputs * kernel * kernel, units, before, after, free, not costs))
        inputs, size = units, out // 2
    inputs *= size * size if network.channels else 1
    for units in network.hidden:
        free = 1 - locked * (locked if costs else 1)
        costs.append(LayerCost(1, inputs, units, inputs, units, free, not costs))
        inputs = units
    return [*costs, LayerCost(1, inputs, network.classes, inputs, network.classes, 1.0)]


@dataclass(frozen=True)
class Machine:
    """Rates measured just before the benchmark.

    Attributes:
        flops: FLOP/s of a matmul.
        bandwidth: bytes/s of a copy; read and written bytes both count.
    """

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
    """The time of the arithmetic or of the memory traffic, whichever is longer. No implementation is much faster."""
    return max(counted["flops"] / machine.flops, counted["bytes"] / machine.bandwidth)


def floor(network: Network, batch: int, locked: float, machine: Machine) -> float:
    """`seconds` of one step."""
    return seconds(count(network, batch, locked), machine)


def memory(network: Network, batch: int) -> dict[str, float]:
    """The least memory: `state_bytes` of the weights, and `step_bytes` of the input of every layer.

    The inputs are needed for the gradient of the weights.
    """
    parts = layers(network, 0.0)
    return {
        "state_bytes": float(BYTES * sum(p.weights for p in parts)),
        "step_bytes": float(BYTES * batch * sum(p.before for p in parts)),
    }


def probe() -> Machine:
    """Measure a 1024 x 2048 x 2048 matmul and a copy of 256 MiB in float32. The result is the 80th percentile."""
    a, b = torch.rand(1024, 2048), torch.rand(2048, 2048)
    c = torch.empty(1024, 2048)
    source, target = torch.rand(1 << 26), torch.empty(1 << 26)
    matmul = _seconds(lambda: torch.mm(a, b, out=c))
    copy = _seconds(lambda: target.copy_(source))
    return Machine(2 * 1024 * 2048 * 2048 / matmul, 2 * BYTES * source.numel() / copy)


def _seconds(call: Callable[[], object], repeats: int = 10) -> float:
    """The 20th percentile of ten calls: low, because other programs on the machine make some calls slower."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.quantiles(times, n=5)[0]
