"""The time to answer for a batch on a GPU: of one task, of many tasks in one call, and task by task."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.gpu.case import within
from benchmarks.gpu.device import Device
from benchmarks.gpu.steps import TINY, ratios
from benchmarks.gpu.timing import Call, measure, summary
from benchmarks.serving import KINDS, TASKS, calls, served
from benchmarks.workload import ALEXNET, MLP, Network

BATCHES = (64, 256)


def rows(device: Device, on: Any, rounds: int, deadline: float = float("inf")) -> Iterator[dict[str, Any]]:
    """Measure: one row per network, batch and variant, until `deadline` (a time of `time.monotonic()`).

    All calls are eager, as in a server.
    """
    tasks = 3 if device.dry else TASKS
    for network in TINY if device.dry else (MLP, ALEXNET):
        for batch in BATCHES if not device.dry else (4,):
            operation = f"{network}, batch {batch}, {tasks} tasks"
            if time.monotonic() > deadline:
                yield {"part": "mixed", "operation": operation, "error": "out of time"}
                continue
            makers = {kind: partial(_calls, device, kind, network, batch, tasks) for kind in KINDS}
            timed = measure(device, makers, rounds=rounds, on=on, capture=False)
            for kind, times in timed.items():
                facts = {"part": "mixed", "operation": operation, "dtype": "fp32", "variant": kind}
                yield {**facts, "ratio_to": ratios(timed, kind), **summary(times)}


def _calls(device: Device, kind: str, network: Network, batch: int, tasks: int) -> list[Call]:
    with device.ours():
        model = served(network, tasks).to(device.kind)
        return [within(device.ours, calls(model, network, batch, device.kind)[kind])]
