"""Learn one lesson: epochs until the schedule ends, then restore the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from hat.life.model import HATModel
from hat.steps.step import NonFiniteLossError, TrainStep
from hat.training.config import TrainConfig
from hat.training.lesson import Lesson
from hat.training.loop import train_epoch
from hat.training.optimizer import make_optimizer
from hat.training.progress import Progress
from hat.training.schedule import Plateau

FIT_FORM = {
    "optimizer": dict,
    "scaler": dict,
    "plateau": {"lr": (float, int), "patience": int, "epoch": int, "best": float},
    "best": dict,
}


class Fit:
    """A model that is learning a lesson, and everything that an exact resume needs.

    Args:
        model: must be learning a task.
        lesson: the batches to learn from.
        config: the recipe.
        progress: shows how far the lesson is.
    """

    def __init__(self, model: HATModel, lesson: Lesson, config: TrainConfig, progress: Progress) -> None:
        self.model, self.lesson, self.config, self.progress = model, lesson, config, progress
        self.optimizer = make_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(config.torch_device().type, enabled=config.dtype == "float16")
        self.step = TrainStep(
            model,
            self.optimizer,
            lamb=config.lamb,
            autocast=config.autocast_dtype(),
            scaler=self.scaler,
            graph=config.graph and config.torch_device().type == "cuda",
            compile=config.compile,
        )
        self.plateau = Plateau.start(config)
        self.best: dict[str, Tensor] = {}

    def run(self, after_epoch: Callable[[dict[str, Any]], None]) -> None:
        """Train to the end of the schedule and restore the weights of the best validation loss.

        Args:
            after_epoch: is called after every epoch with a row of plain numbers.

        Raises:
            NonFiniteLossError: the loss became inf or NaN.
        """
        while not self.plateau.done(self.config):
            after_epoch(self._epoch())
        if self.best:
            self.model.load_state_dict(self.best)

    def _epoch(self) -> dict[str, Any]:
        started, epoch, lr = time.perf_counter(), self.plateau.epoch, self.plateau.lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.progress.start_epoch(self.lesson.name, epoch, self.config.epochs, len(self.lesson))
        loss = train_epoch(self.step, self.lesson, epoch, self.progress.advance)
        trained = time.perf_counter()
        val_loss, val_accuracy = self.lesson.validate(self.model)
        if not math.isfinite(val_loss):
            raise NonFiniteLossError(
                f"loss: expected finite, got {val_loss} on the validation part of {self.lesson.name}, epoch {epoch + 1}"
            )
        if self.plateau.update(val_loss, self.config):
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        used = list(self.model.capacity().values())
        capacity = sum(used) / len(used)
        self.progress.end_epoch(val_accuracy, capacity)
        return {
            "lesson": self.lesson.name,
            "epoch": epoch + 1,
            "loss": loss.task,
            "penalty": loss.penalty,
            "lr": lr,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "used_capacity": capacity,
            "train_seconds": trained - started,
            "seconds": time.perf_counter() - started,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model, in the form `FIT_FORM`."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "plateau": asdict(self.plateau),
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.plateau = Plateau(**state["plateau"])
        self.best = dict(state["best"])
