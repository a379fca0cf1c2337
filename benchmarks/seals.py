"""`python -m benchmarks.seals`: what the seals cost when a task ends, beside an epoch of the README's first example.

When a task ends, everything that finished tasks use is read to compare the seals. Then what all tasks share is read
again, to seal it anew, with what belongs to the task that has ended.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

import hat
from hat.network.seals import elements, seals


class Cost(NamedTuple):
    """The cost after one task.

    Attributes:
        epoch_ms: the median time of an epoch.
        seals_ms: the median time to compare the seals and to seal again.
        elements: how many elements are read to compare.
    """

    epoch_ms: float
    seals_ms: float
    elements: int

    @property
    def share(self) -> float:
        """The cost of the seals of one task as a share of one epoch."""
        return self.seals_ms / self.epoch_ms


def measure(tasks: int = 4, epochs: int = 6, rounds: int = 20) -> list[Cost]:
    """Learn some tasks of the README's first example, and measure after each of them."""
    torch.set_flush_denormal(True)
    model, costs = hat.HATModel(hat.models.mlp(64, hidden=(200, 200))), []
    for task in hat.data.permuted("digits", tasks=tasks):
        model.begin_task(classes=task.classes)
        optimizer = hat.optim.SGD(model.task_parameters(), lr=0.05, momentum=0.9)
        epoch_ms = []
        for _ in range(epochs):
            start = time.perf_counter()
            for progress, (x, y) in task.batches(epochs=1, batch_size=64):
                model.anneal(progress)
                loss = F.cross_entropy(model(x), y) + 0.75 * model.penalty()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            epoch_ms.append(1000 * (time.perf_counter() - start))
        earlier = seals(model)
        model.end_task()
        seals_ms = [_milliseconds(lambda e=earlier: (seals(model), seals(model, e))) for _ in range(rounds)]
        costs.append(Cost(statistics.median(epoch_ms), statistics.median(seals_ms), elements(model)))
    return costs


def _milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    print("task  epoch (ms)  seals (ms)  share  elements read")
    for task, cost in enumerate(measure()):
        print(f"{task:4}  {cost.epoch_ms:10.1f}  {cost.seals_ms:10.2f}  {cost.share:5.1%}  {cost.elements:13}")


if __name__ == "__main__":
    main()
