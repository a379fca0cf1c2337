"""A whole run, from the first image to the last mask: ten tasks of the paper's MLP, ten epochs each, in seconds.

The images have the shape, the number and the permutations of permuted MNIST, but are drawn: a cloud around one centre a
class. The machine that measures may have no data, and the time does not depend on what the pixels are.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

import hat
from benchmarks.gpu.device import Device
from benchmarks.gpu.timing import short
from hat.data import Part, Task
from hat.training import PlainModel

SHAPE = (1, 28, 28)


@dataclass(frozen=True)
class Size:
    """Of a run: images of the three parts, tasks, epochs and the widths of the network."""

    images: tuple[int, int, int] = (51_000, 9_000, 10_000)
    tasks: int = 10
    epochs: int = 10
    hidden: tuple[int, ...] = (2000, 2000)


TINY = Size(images=(64, 8, 8), tasks=2, epochs=1, hidden=(8, 8))


def rows(device: Device, deadline: float, size: Size | None = None) -> Iterator[dict[str, Any]]:
    """Seconds of `ours` and `plain` with graphs, then without as long as there is time.

    Args:
        device: where they learn.
        deadline: of `time.monotonic()`; no run starts that would not end before, as the first of them went.
        size: of a run.
    """
    size = size or (TINY if device.dry else Size())
    stream = permuted(size)
    modes = ("eager",) if device.dry else ("graph", "eager")
    longest = 0.0
    for mode in modes:
        for name, kind in (("ours", hat.HATModel), ("plain", PlainModel)):
            row = {
                "part": "whole",
                "operation": f"permuted {size.images[0]} images, {size.tasks} tasks, {size.epochs} epochs, batch 64",
                "mode": mode,
                "variant": name,
            }
            expected = longest if mode == "graph" else 6 * longest
            if time.monotonic() + expected > deadline:
                yield {**row, "error": "out of time"}
                continue
            try:
                found = _run(device, kind, stream, size, graph=mode == "graph")
            except Exception as error:
                yield {**row, "error": short(error)}
                continue
            longest = max(longest, found["seconds"]) if mode == modes[0] else longest
            yield {**row, **found}


def permuted(size: Size) -> list[Task]:
    """The tasks; they share one set of images."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, *SHAPE, generator=generator)
    parts = []
    for count in size.images:
        labels = torch.randint(10, (count,), generator=generator)
        parts.append(Part(centres[labels] + 2 * torch.randn(count, *SHAPE, generator=generator), labels))
    names = tuple(map(str, range(10)))
    found = []
    for index in range(size.tasks):
        order = torch.randperm(SHAPE[1] * SHAPE[2], generator=generator)
        found.append(Task(f"permuted {index}", names, *(part.permuted(order) for part in parts), index=index))
    return found


def _run(device: Device, kind: Callable[..., hat.HATModel], stream: list[Task], size: Size, graph: bool) -> Any:
    torch.manual_seed(0)
    model = kind(hat.models.mlp(SHAPE[1] * SHAPE[2], size.hidden))
    config = hat.TrainConfig(epochs=size.epochs, lr_patience=size.epochs, device=device.kind, graph=graph)
    with device.ours(), warnings.catch_warnings():
        warnings.simplefilter("error", hat.GraphWarning)  # a run that falls back takes minutes, and is no graph
        result = hat.Trainer(model, stream, config, progress=False).run()
    accuracy, drift = result.history.accuracy[-1], result.history.drift[-1]
    return {"seconds": result.seconds, "accuracy": sum(accuracy) / len(accuracy), "drift": max(drift)}
