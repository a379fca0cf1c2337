"""Whole training steps on a GPU: plain, textbook and ours, eager and as a CUDA graph."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

import hat
import hat_kernels
from benchmarks.gpu.case import compile_, within
from benchmarks.gpu.device import Device
from benchmarks.gpu.timing import Call, Timed, measure, summary
from benchmarks.variants import IN_MATMUL, OURS, PLAIN, TEXTBOOK
from benchmarks.worker import Case, build
from benchmarks.workload import ALEXNET, LAMB, MLP, Network, batches

COMPILED = "compiled textbook"
KINDS = (PLAIN, TEXTBOOK, COMPILED, OURS, IN_MATMUL)
TRAIN_STEP = "ours, TrainStep"  # captures its graph itself; the cost of its Python code is measured too
LOCKED = (0.0, 0.5, 0.9)
BATCH = 64
PROGRESS = 0.5  # of the epoch; a captured step keeps its scale, and the time of a step does not depend on the scale
TINY = (
    Network(kind="mlp", input_shape=(6,), hidden=(8, 8), classes=2),
    Network(kind="alexnet", input_shape=(3, 16, 16), channels=(2, 3, 4), hidden=(6, 5), classes=2),
)


def rows(device: Device, on: Any, rounds: int, deadline: float = float("inf")) -> Iterator[dict[str, Any]]:
    """Measure: one row per network, locked share, variant and mode, until `deadline` (a time of `time.monotonic()`)."""
    for network in TINY if device.dry else (MLP, ALEXNET):
        for locked in LOCKED[1:2] if device.dry else LOCKED:
            for mode in ("eager",) if device.dry else ("eager", "graph"):
                if time.monotonic() > deadline:
                    return
                yield from _rows(device, on, rounds, network, locked, mode)


def _rows(device: Device, on: Any, rounds: int, network: Network, locked: float, mode: str) -> Iterator[dict[str, Any]]:
    batch = 4 if device.dry else BATCH
    data = [(x.to(device.kind), y.to(device.kind)) for x, y in batches(network, batch, 1 if device.dry else 8)]
    kinds = (*KINDS, TRAIN_STEP) if mode == "graph" or device.dry else KINDS
    makers = {kind: partial(_calls, device, kind, network, locked, data) for kind in kinds}
    timed = measure(device, makers, rounds=rounds, on=on, capture=mode == "graph", own_graph=(TRAIN_STEP,))
    for kind in timed:
        facts = {"part": "step", "operation": f"step, {network}, batch {batch}", "dtype": "fp32"}
        yield {**facts, **row(timed, kind, locked, mode)}


def row(timed: dict[str, Timed], name: str, locked: float, mode: str) -> dict[str, Any]:
    """The entries of a row that hold the times of a variant, and its ratios to the other variants."""
    return {
        "locked": locked,
        "mode": mode,
        "variant": name,
        "ratio_to": ratios(timed, name),
        **summary(timed[name]),
    }


def ratios(timed: dict[str, Timed], name: str) -> dict[str, float]:
    """The time of a variant divided by the time of every other variant: the median over rounds."""
    medians = {}
    for other, times in timed.items():
        quotients = [ms / other_ms for ms, other_ms in zip(timed[name].ms, times.ms, strict=False)]
        if other != name and quotients and not (timed[name].error or times.error):
            medians[other] = sorted(quotients)[len(quotients) // 2]
    return medians


def _calls(device: Device, kind: str, network: Network, locked: float, data: list[tuple[Tensor, Tensor]]) -> list[Call]:
    base = {COMPILED: TEXTBOOK, TRAIN_STEP: OURS}.get(kind, kind)
    step = moved(build(base, Case(network=network, batch=len(data[0][0]), locked=locked)), device)
    context = device.ours if kind in (OURS, IN_MATMUL, TRAIN_STEP) else partial(hat_kernels.backend, "reference")
    if kind == COMPILED:
        step.forward = compile_(device, step.forward)
    if kind == TRAIN_STEP:
        train = hat.TrainStep(step.model, step.optimizer, lamb=LAMB, graph=not device.dry)
        return [within(context, partial(_strictly, train, x, y)) for x, y in data]
    return [within(context, partial(step, x, y, PROGRESS)) for x, y in data]


def _strictly(train: hat.TrainStep, x: Tensor, y: Tensor) -> hat.StepLoss:
    """Run a step. If the step cannot use its graph, raise an error, because an eager step would be timed as a graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", hat.GraphWarning)
        return train(x, y, progress=PROGRESS)


def moved(step: Any, device: Device) -> Any:
    """Move the model of a variant to the device, and the locks of the textbook too. The optimizer has no state yet."""
    step.model.to(device.kind)
    if step.name == "textbook":
        step.used = [used.to(device.kind) for used in step.used]
        step.rates = {name: rate.to(device.kind) for name, rate in step.rates.items()}
    return step
