"""The seconds of a whole run: the paper's MLP learns ten tasks, ten epochs per task.

The images have the shape, the number and the permutations of permuted MNIST, but their pixels are random: a cloud
around one centre per class. The measured machine need not have the data, and the time does not depend on the pixels.
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
    """The size of a run.

    Attributes:
        images: the number of images in the three parts: training, validation and test.
        tasks: the number of tasks.
        epochs: the number of epochs per task.
        hidden: the widths of the hidden layers.
    """

    images: tuple[int, int, int] = (51_000, 9_000, 10_000)
    tasks: int = 10
    epochs: int = 10
    hidden: tuple[int, ...] = (2000, 2000)


TINY = Size(images=(64, 8, 8), tasks=2, epochs=1, hidden=(8, 8))


def rows(device: Device, deadline: float, size: Size | None = None) -> Iterator[dict[str, Any]]:
    """Measure `ours` and `plain` with graphs, then without graphs if there is time.

    Args:
        device: the device.
        deadline: a time of `time.monotonic()`. A run does not start if it would end later; its time is estimated from
            the first runs.
        size: the size of a run.
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
                result = _run(device, kind, stream, size, graph=mode == "graph")
            except Exception as error:
                yield {**row, "error": short(error)}
                continue
            longest = max(longest, result["seconds"]) if mode == modes[0] else longest
            yield {**row, **result}


def permuted(size: Size) -> list[Task]:
    """The tasks of permuted images. All tasks share one set of images."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, *SHAPE, generator=generator)
    parts = []
    for count in size.images:
        labels = torch.randint(10, (count,), generator=generator)
        parts.append(Part(centres[labels] + 2 * torch.randn(count, *SHAPE, generator=generator), labels))
    names = tuple(map(str, range(10)))
    tasks = []
    for index in range(size.tasks):
        order = torch.randperm(SHAPE[1] * SHAPE[2], generator=generator)
        tasks.append(Task(f"permuted {index}", names, *(part.permuted(order) for part in parts), index=index))
    return tasks


def _run(device: Device, kind: Callable[..., hat.HATModel], stream: list[Task], size: Size, graph: bool) -> Any:
    torch.manual_seed(0)
    model = kind(hat.models.mlp(SHAPE[1] * SHAPE[2], size.hidden))
    config = hat.TrainConfig(epochs=size.epochs, lr_patience=size.epochs, device=device.kind, graph=graph)
    with device.ours(), warnings.catch_warnings():
        warnings.simplefilter("error", hat.GraphWarning)  # an eager run takes minutes, and is not a run with graphs
        result = hat.Trainer(model, stream, config, progress=False).run()
    accuracy, drift = result.history.accuracy[-1], result.history.drift[-1]
    return {"seconds": result.seconds, "accuracy": sum(accuracy) / len(accuracy), "drift": max(drift)}
