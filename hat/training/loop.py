"""The step, and the epoch made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hat.model import HATModel
from hat.training.config import TrainConfig
from hat.training.lesson import Lesson


class NonFiniteLossError(ArithmeticError):
    """The loss became inf or NaN; the weights of the step before it are kept."""


@dataclass(frozen=True)
class EpochLoss:
    """Means over the batches of an epoch: the task loss and the capacity penalty."""

    task: float
    penalty: float


def train_epoch(
    model: HATModel,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    lesson: Lesson,
    epoch: int,
    config: TrainConfig,
    on_batch: Callable[[Tensor], None] = lambda total: None,
) -> EpochLoss:
    """One epoch of HAT: anneal, forward, penalty, backward, and a locked, clipped and clamped update a batch.

    Args:
        model: one task of it is being learned.
        optimizer: locked, of the parameters of that task.
        scaler: of float16's gradients; does nothing else where it is not enabled.
        lesson: what is learned.
        epoch: counted from 0.
        config: the batch's dtype and device, and `lamb`.
        on_batch: gets the sum of the task losses so far, 0-d on the device, after every batch.

    Raises:
        NonFiniteLossError: before the update that would have spoiled the weights (on a CPU), or at the end of the epoch
            (on other devices, where looking at every loss would stall the stream).
    """
    model.train()
    watch = config.torch_device().type == "cpu"
    total = torch.zeros(2, device=config.torch_device())
    for step, (progress, x, y, task) in enumerate(lesson.epoch(epoch)):
        model.anneal(progress)
        with config.autocast():
            loss = F.cross_entropy(model(x, task=task), y)
        penalty = model.penalty()
        if watch and not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"loss: expected finite, got {loss.item()} in {lesson.name}, epoch {epoch + 1}, step {step}"
            )
        optimizer.zero_grad()
        scaler.scale(loss + config.lamb * penalty).backward()
        scaler.step(optimizer)
        scaler.update()
        total += torch.stack([loss.detach(), penalty.detach()])
        on_batch(total[0])
    mean = (total / max(len(lesson), 1)).tolist()
    if not torch.isfinite(total).all():
        raise NonFiniteLossError(f"loss: expected finite, got a mean of {mean[0]} in {lesson.name}, epoch {epoch + 1}")
    return EpochLoss(*mean)
