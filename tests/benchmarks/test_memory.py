"""The memory of a step: exact bytes of tensors, and pages of the process."""

from __future__ import annotations

import sys
from itertools import chain

import pytest
import torch

from benchmarks import memory
from benchmarks.bench import Bench, Case
from benchmarks.variants import OURS, PLAIN
from benchmarks.worker import Worker
from benchmarks.workload import Network

NETWORK = Network(kind="mlp", input_shape=(8,), hidden=(64, 64), classes=2, drop=False)
WEIGHTS = 4 * (8 * 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2)


def test_allocated_counts_the_most_bytes_alive_at_once() -> None:
    kept = []

    def call() -> None:
        for _ in range(3):
            torch.ones(1000)
        kept.append(torch.ones(500) + torch.ones(500))

    assert memory.allocated(call) in range(4 * 1500, 4 * 1500 + 512)


def test_plain_keeps_only_its_weights_between_steps() -> None:
    before = memory.kept()
    bench = Bench(PLAIN, Case(network=NETWORK, batch=4))
    bench.step(*bench.batches[0], 0.5)
    bench.step.optimizer.zero_grad()
    assert memory.kept(but=chain.from_iterable(bench.batches)) - before == WEIGHTS


def test_a_tensor_inside_any_object_is_counted_once() -> None:
    before = memory.kept()
    hidden = {"somewhere": torch.ones(1000), "not dense": torch.eye(3).to_sparse()}
    view = hidden["somewhere"][:10]
    assert memory.kept() - before == 4000
    assert memory.kept(but=[view]) - before == 0


def test_a_task_adds_its_masks_and_its_head_and_nothing_to_a_step() -> None:
    memory_by_tasks = {
        tasks: Bench(OURS, Case(network=NETWORK, batch=4, locked=0.5, tasks=tasks)).memory() for tasks in (1, 2, 5)
    }
    masks_and_head = 4 * (128 + 64 * 2 + 2)
    one, two, five = memory_by_tasks.values()
    assert two["state_bytes"] - one["state_bytes"] == masks_and_head
    assert five["state_bytes"] - two["state_bytes"] == 3 * masks_and_head
    assert one["step_bytes"] == two["step_bytes"] == five["step_bytes"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_of_a_fresh_process() -> None:
    wide = Network(kind="mlp", input_shape=(8,), hidden=(1500, 1500), classes=2)
    worker = Worker(PLAIN, threads=1)
    try:
        peak = worker.peak(Case(network=wide, batch=4))
    finally:
        worker.close()
    weights = 4 * 1500 * 1500
    assert peak is None or 2 * weights <= peak < 3 * weights  # the weights and their gradients
