"""`pytest benchmarks`: whole steps, grouped so that plain, textbook and ours stand together.

A quick look; the numbers to quote come from `python -m benchmarks`, which interleaves.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest

from benchmarks.measure import progress_grid
from benchmarks.worker import Bench, Case
from benchmarks.workload import ALEXNET, MLP, Network

KINDS = ("plain", "textbook", "ours")
CASES = [(MLP, 64, 0.0), (MLP, 64, 0.5), (MLP, 64, 0.9), (MLP, 256, 0.0), (ALEXNET, 64, 0.0), (ALEXNET, 64, 0.9)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("network", "batch", "locked"), CASES)
def test_step(benchmark: Any, kind: str, network: Network, batch: int, locked: float) -> None:
    benchmark.group = f"step over an annealed epoch, {network}, batch {batch}, {100 * locked:.0f} % locked"
    bench = Bench(kind, Case(network=network, batch=batch, locked=locked))
    bench.run([0.5])
    places = cycle(progress_grid(12))
    loss = benchmark.pedantic(lambda: bench.step(*next(bench.data), next(places)), rounds=12)
    assert loss.isfinite()


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_step_at_scale(benchmark: Any, kind: str, progress: float) -> None:
    benchmark.group = f"step of {kind} against scale, {MLP}, batch 64"
    bench = Bench(kind, Case(network=MLP, batch=64))
    bench.run([progress])
    loss = benchmark.pedantic(lambda: bench.step(*next(bench.data), progress), rounds=12)
    assert loss.isfinite()
