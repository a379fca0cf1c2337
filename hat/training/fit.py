"""Learn one lesson: epochs until the schedule ends, then restore the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from hat.arguments import got
from hat.life.model import HATModel
from hat.steps.step import NonFiniteLossError, TrainStep
from hat.training.config import TrainConfig
from hat.training.form import check_form
from hat.training.lesson import Lesson
from hat.training.loop import train_epoch
from hat.training.optimizer import make_optimizer
from hat.training.progress import Progress
from hat.training.schedule import Plateau

_FORM: dict[str, Any] = {
    "optimizer": {"state": dict, "param_groups": [{"params": [int]}]},
    "scaler": dict,
    "plateau": {"lr": (float, int), "patience": int, "epoch": int, "best": float},
    "best": dict,
}


def check_fit(saved: Any, model: dict[Any, Any], where: str) -> None:
    """Check the state of a `Fit`.

    Args:
        saved: the state.
        model: the state of the model that was saved with it.
        where: the name of the state, for the message.

    Raises:
        ValueError: a part is missing or has another form, or the best weights are those of another model.
    """
    check_form(saved, _FORM, where)
    if saved["plateau"].keys() != _FORM["plateau"].keys():
        raise ValueError(f"{where}: plateau: expected {', '.join(_FORM['plateau'])}, got other entries")
    if not 0 < saved["plateau"]["lr"] < math.inf or saved["plateau"]["epoch"] < 0:
        raise ValueError(f"{where}: plateau: expected a finite lr > 0 and an epoch from 0 on")
    for number, state in saved["optimizer"]["state"].items():
        if type(number) is not int or not isinstance(state, dict):
            raise ValueError(f"{where}: optimizer: expected a dict for the number of every parameter")
        for name, value in state.items():
            form = [Tensor] if isinstance(value, list) else (Tensor, int, float, type(None))
            check_form(value, form, f"{where}: optimizer: state {number}: {name}")
    best = saved["best"]
    if best and best.keys() != model.keys():
        raise ValueError(f"{where}: best: expected the names of the model, got others")
    for name, value in best.items():
        kept = model[name]
        if not (isinstance(value, Tensor) and isinstance(kept, Tensor) and value.dtype == kept.dtype):
            raise ValueError(f"{where}: best: {name}: expected a tensor like the one of the model")
        if value.shape != kept.shape and not name.endswith("_extra_state"):
            raise ValueError(f"{where}: best: {name}: expected {tuple(kept.shape)}, got {tuple(value.shape)}")


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
        """Everything but the model, in a form that `check_fit` knows."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "plateau": asdict(self.plateau),
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: the state is that of another optimizer.
        """
        self._check_optimizer(state["optimizer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.plateau = Plateau(**state["plateau"])
        self.best = dict(state["best"])

    def _check_optimizer(self, state: dict[str, Any]) -> None:
        """Check that a state has the parameters and options of this optimizer, and no tensor larger than they are."""
        groups = self.optimizer.param_groups
        parameters: dict[int, Tensor] = {}
        if [len(group["params"]) for group in groups] != [len(group["params"]) for group in state["param_groups"]]:
            raise ValueError("optimizer: expected groups with as many parameters as the model has, got others")
        for group, saved in zip(groups, state["param_groups"], strict=True):
            parameters |= dict(zip(saved["params"], group["params"], strict=True))
            for name, value in saved.items():
                if name not in ("params", "lr") and name in group and not _same(value, group[name]):
                    raise ValueError(f"optimizer: {name}: expected {got(group[name])}, got {got(value)}")
        for number, values in state["state"].items():
            if number not in parameters:
                raise ValueError(f"optimizer: expected states of the parameters of the model, got one of {got(number)}")
            most = parameters[number].numel()
            for name, value in values.items():  # a list has the blocks that may move
                parts = [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, Tensor)]
                axes = parameters[number].dim()
                if any(part.dim() not in (0, axes) for part in parts):
                    shapes = [tuple(part.shape) for part in parts]
                    raise ValueError(f"optimizer: {name}: expected parts of {axes} dimensions, got {shapes}"[:300])
                if (count := sum(part.numel() for part in parts if part.dim())) > most:
                    raise ValueError(f"optimizer: {name}: expected at most {most} numbers, got {count}")


def _same(value: Any, other: Any) -> bool:
    """Whether two options of an optimizer are equal; a tuple may have become a list."""
    return type(value) in (bool, int, float, str, list, tuple, type(None)) and (
        list(value) == list(other)
        if isinstance(value, (list, tuple)) and isinstance(other, (list, tuple))
        else value == other
    )
