"""One epoch: a training step for every batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hat.steps.step import NonFiniteLossError, TrainStep
from hat.training.lesson import Lesson


@dataclass(frozen=True)
class EpochLoss:
    """Means over the batches of an epoch.

    Attributes:
        task: the task loss.
        penalty: the capacity penalty.
    """

    task: float
    penalty: float


def train_epoch(
    step: TrainStep, lesson: Lesson, epoch: int, on_batch: Callable[[Tensor], None] = lambda total: None
) -> EpochLoss:
    """One epoch of HAT: a step for every batch of a lesson.

    Args:
        step: the training step of a model that is learning a task.
        lesson: the batches.
        epoch: counted from 0.
        on_batch: is called after every batch with the sum of the task losses so far, 0-d on the device.

    Raises:
        NonFiniteLossError: a loss is inf or NaN. On a CPU this is raised before the update that would spoil the
            weights. On other devices it is raised at the end of the epoch, because reading every loss would make the
            host wait for the device.
    """
    step.model.train()
    total = torch.zeros(2, device=step.model.state.scale.device)
    for number, (progress, x, y, task) in enumerate(lesson.epoch(epoch)):
        try:
            losses = step(x, y, progress=progress, task=task)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{error} in {lesson.name}, epoch {epoch + 1}, step {number}") from None
        total += torch.stack(losses)
        on_batch(total[0])
    mean = (total / max(len(lesson), 1)).tolist()
    if not torch.isfinite(total).all():
        raise NonFiniteLossError(f"loss: expected finite, got a mean of {mean[0]} in {lesson.name}, epoch {epoch + 1}")
    return EpochLoss(*mean)
