"""`pytest benchmarks`: time whole steps. Plain, textbook and ours are shown as one group.

For a quick look only. Quote the numbers of `python -m benchmarks`, in which the variants take turns.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest

from benchmarks.bench import Bench, Case
from benchmarks.measure import progress_grid
from benchmarks.variants import COMPILED, IN_MATMUL, OURS, PLAIN, TEXTBOOK, VARIANTS
from benchmarks.workload import ALEXNET, MLP, Network

NAMES = (PLAIN, TEXTBOOK, OURS, IN_MATMUL, COMPILED)
CASES = [(MLP, 64, locked) for locked in (0.0, 0.25, 0.5, 0.75, 0.9)]
CASES += [(MLP, 256, 0.0), (MLP, 256, 0.5), (ALEXNET, 64, 0.0), (ALEXNET, 64, 0.9)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("network", "batch", "locked"), CASES)
def test_step(benchmark: Any, name: str, network: Network, batch: int, locked: float) -> None:
    benchmark.group = f"step over an annealed epoch, {network}, batch {batch}, {100 * locked:.0f} % locked"
    with VARIANTS[name].backend():
        bench = Bench(name, Case(network=network, batch=batch, locked=locked))
        bench.run([0.5])
        progress_values = cycle(progress_grid(12))
        loss = benchmark.pedantic(lambda: bench.step(*next(bench.data), next(progress_values)), rounds=12)
    assert loss.isfinite()


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_step_at_scale(benchmark: Any, name: str, progress: float) -> None:
    benchmark.group = f"step of {name} against scale, {MLP}, batch 64"
    with VARIANTS[name].backend():
        bench = Bench(name, Case(network=MLP, batch=64))
        bench.run([progress])
        loss = benchmark.pedantic(lambda: bench.step(*next(bench.data), progress), rounds=12)
    assert loss.isfinite()
