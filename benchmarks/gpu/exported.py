"""Exported networks on a GPU, compared with the dense networks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.exported import KINDS, SHARES, dense_and_exported, model_of_share
from benchmarks.gpu.device import Device
from benchmarks.gpu.steps import TINY, ratios
from benchmarks.gpu.timing import Call, measure, summary
from benchmarks.workload import ALEXNET, MLP, Network, batches

BATCHES = (64, 256)


def rows(device: Device, on: Any, rounds: int, deadline: float = float("inf")) -> Iterator[dict[str, Any]]:
    """Measure: one row per network, batch, share, mode and variant, until `deadline` (a time of `time.monotonic()`)."""
    for network in TINY if device.dry else (MLP, ALEXNET):
        for batch in BATCHES if not device.dry else (4,):
            operation = f"{network}, batch {batch}"
            for share in SHARES[1:2] if device.dry else SHARES:
                if time.monotonic() > deadline:
                    yield {"part": "exported", "operation": operation, "error": "out of time"}
                    break
                yield from _rows(device, on, rounds, network, batch, share, operation)


def _rows(
    device: Device, on: Any, rounds: int, network: Network, batch: int, share: float, operation: str
) -> Iterator[dict[str, Any]]:
    @cache
    def networks() -> dict[str, nn.Module]:
        pair = dense_and_exported(model_of_share(network, share), 0)
        return {kind: module.to(device.kind) for kind, module in pair.items()}

    x = batches(network, batch, 1)[0][0].to(device.kind)
    makers = {kind: partial(_calls, networks, kind, x) for kind in KINDS}
    for mode in ("eager",) if device.dry else ("eager", "graph"):
        timed = measure(device, makers, rounds=rounds, on=on, capture=mode == "graph")
        for kind, times in timed.items():
            facts = {"part": "exported", "operation": operation, "dtype": "fp32", "share": share, "mode": mode}
            yield {**facts, "variant": kind, "ratio_to": ratios(timed, kind), **summary(times)}


def _calls(networks: Any, kind: str, x: Tensor) -> list[Call]:
    network: nn.Module = networks()[kind]

    def call() -> None:
        with torch.no_grad():
            network(x)

    return [call]
