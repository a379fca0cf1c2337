"""Whole training steps of converted networks in bfloat16, eager and as a CUDA graph. Arithmetic limits these steps."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.converted import RESNET18, TINY_RESNET18, TINY_VIT, VIT_B, ConvertedNetwork
from benchmarks.gpu.case import within
from benchmarks.gpu.device import Device
from benchmarks.gpu.steps import LOCKED, PROGRESS, moved, row
from benchmarks.gpu.timing import Call, measure
from benchmarks.step import TrainingStep
from benchmarks.variants import OURS, PLAIN
from benchmarks.worker import Case, build
from benchmarks.workload import batches

KINDS = (PLAIN, OURS)
NETWORKS = ((RESNET18, 256), (VIT_B, 128))
TINY = ((TINY_RESNET18, 4), (TINY_VIT, 4))
ROUNDS = 7  # the most rounds: a step takes a tenth of a second, so few rounds are enough


def rows(device: Device, on: Any, rounds: int, deadline: float = float("inf")) -> Iterator[dict[str, Any]]:
    """Measure: one row per network, locked share, variant and mode, until `deadline` (a time of `time.monotonic()`).

    Every network has the same share of the time. If its time ends early, a row says so.
    """
    networks = TINY if device.dry else NETWORKS
    for index, (network, batch) in enumerate(networks):
        start = time.monotonic()
        until = start + (deadline - start) / (len(networks) - index)
        for locked in LOCKED[1:2] if device.dry else LOCKED:
            if time.monotonic() > until:
                yield {"part": "converted", "operation": _title(network, batch), "error": "out of time"}
                break
            yield from _rows(device, on, min(rounds, ROUNDS), network, batch, locked)


def _title(network: ConvertedNetwork, batch: int) -> str:
    return f"step, {network}, batch {batch}"


def _rows(
    device: Device, on: Any, rounds: int, network: ConvertedNetwork, batch: int, locked: float
) -> Iterator[dict[str, Any]]:
    ((x, y),) = batches(network, batch, 1)  # one batch is enough, because it is larger than any cache
    x, y = x.to(device.kind), y.to(device.kind)
    case = Case(network=network, batch=batch, locked=locked)
    makers = {kind: partial(_calls, device, cache(partial(_step, device, kind, case)), kind, x, y) for kind in KINDS}
    for mode in ("eager",) if device.dry else ("eager", "graph"):
        timed = measure(device, makers, rounds=rounds, on=on, capture=mode == "graph")
        for kind in timed:
            facts = {"part": "converted", "operation": _title(network, batch), "dtype": "bf16"}
            yield {**facts, **row(timed, kind, locked, mode)}
        gc.collect()  # the graphs of both variants hold tens of gigabytes
        if not device.dry:
            torch.cuda.empty_cache()


def _step(device: Device, kind: str, case: Case) -> TrainingStep:
    """A variant on the device. Its forward pass and its loss run under autocast."""
    step = moved(build(kind, case), device)
    autocast = partial(torch.autocast, device.kind, dtype=torch.bfloat16)
    forward = step.forward

    def cast(x: Tensor, y: Tensor, progress: float) -> Tensor:
        with autocast():
            return forward(x, y, progress)

    step.forward = cast
    return step


def _calls(device: Device, make: Callable[[], TrainingStep], kind: str, x: Tensor, y: Tensor) -> list[Call]:
    step = make()  # both modes get the same step
    call = partial(step, x, y, PROGRESS)
    return [within(device.ours, call) if kind == OURS else call]
