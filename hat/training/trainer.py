"""Learning a stream of tasks, epoch by epoch, so that an interrupted run continues exactly."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from hat.data import Task
from hat.model import HATModel
from hat.training.config import TrainConfig
from hat.training.evaluation import evaluate
from hat.training.fit import Fit
from hat.training.history import History
from hat.training.lesson import TaskLesson
from hat.training.progress import Progress
from hat.training.rundir import RunDir
from hat.training.subnormals import flushed_subnormals


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind.

    Attributes:
        history: every epoch, the accuracy matrix, capacity and drift.
        seconds: spent in training and evaluation, over all resumed parts.
    """

    history: History
    seconds: float


class Trainer:
    """Learns the tasks of a stream in order.

    Args:
        model: fresh; moved to the config's device.
        stream: the tasks.
        config: by default the published recipe.
        run_dir: where to keep metrics, checkpoints and logits; None keeps nothing.
        progress: show progress bars on a terminal, a line a task elsewhere.

    Raises:
        ValueError: the stream is empty, or the model has already learned something.
    """

    def __init__(
        self,
        model: HATModel,
        stream: Sequence[Task],
        config: TrainConfig | None = None,
        *,
        run_dir: str | PathLike[str] | None = None,
        progress: bool = True,
    ) -> None:
        if not len(stream):
            raise ValueError("stream: expected at least one task, got none")
        if len(model.heads):
            raise ValueError(f"model: expected a fresh one, got one with {len(model.heads)} tasks")
        self.config = config or TrainConfig()
        self.model = model.to(self.config.torch_device())
        self.stream = stream
        self.run_dir = RunDir(run_dir) if run_dir is not None else None
        self.progress = Progress(progress)
        self.history = History()
        self.learned: list[Tensor] = []
        self._fit: Fit | None = None
        self._seconds, self._since = 0.0, time.perf_counter()

    def run(self, *, resume: bool = False) -> TrainResult:
        """Learn every task that is not learned yet.

        Args:
            resume: continue from the run directory's checkpoint. The run then ends with the bits that it would have had
                without the interruption (same device).

        Raises:
            ValueError: `resume` without a run directory or a fitting checkpoint.
            NonFiniteLossError: the loss became inf or NaN; the last checkpoint stays.
        """
        if resume:
            self._restore()
        else:
            torch.manual_seed(self.config.seed)
        self._since = time.perf_counter()
        try:
            with flushed_subnormals():
                while self.model.tasks < len(self.stream):
                    self._learn_task()
        finally:
            self.progress.close()
        return TrainResult(self.history, self._seconds)

    def _learn_task(self) -> None:
        if self._fit is None:
            self._fit = self._begin(self.model.tasks)
            self._save()
        self._fit.run(after_epoch=self._after_epoch)
        epochs, self._fit = self._fit.plateau.epoch, None
        task = self.model.end_task()
        self._evaluate(task)
        self._save()
        self.progress.end_task(self._line(task, epochs))

    def _begin(self, index: int) -> Fit:
        """Start a task, or pick up the one that the model is in the middle of."""
        task = self.stream[index]
        if not self.model.learning:
            self.model.begin_task(task.classes)
        return Fit(self.model, TaskLesson(task, index, self.config), self.config, self.progress)

    def _after_epoch(self, row: dict[str, Any]) -> None:
        self.history.epochs.append({"task": self.model.task, **row})
        self._save()

    def _evaluate(self, last: int) -> None:
        """One more row of accuracy, capacity and drift."""
        accuracy, drift = [], []
        for index in range(last + 1):
            result = evaluate(self.model, self.stream[index].test, index, self.config)
            if index == last:
                self.learned.append(result.logits)
                if self.run_dir is not None:
                    self.run_dir.save_logits(index, result.logits)
            accuracy.append(result.accuracy)
            drift.append(result.drift_from(self.learned[index]))
        self.history.names.append(self.stream[last].name)
        self.history.accuracy.append(accuracy)
        self.history.drift.append(drift)
        self.history.capacity.append(self.model.capacity())

    def _line(self, task: int, epochs: int) -> str:
        row, used = self.history.accuracy[-1], list(self.history.capacity[-1].values())
        return (
            f"task {task + 1}/{len(self.stream)} {self.stream[task].name}: {epochs} epochs, test {row[-1]:.2%}, "
            f"mean of {len(row)} {sum(row) / len(row):.2%}, used {sum(used) / len(used):.1%} of the units, "
            f"drift {max(self.history.drift[-1]):g}"
        )

    def _save(self) -> None:
        now = time.perf_counter()
        self._seconds, self._since = self._seconds + now - self._since, now
        if self.run_dir is None:
            return
        self.run_dir.write_history(self.history)
        self.run_dir.save(
            {
                "model": self.model.state_dict(),
                "fit": self._fit.state_dict() if self._fit else None,
                "history": asdict(self.history),
                "seconds": self._seconds,
                "config": asdict(self.config),
                "random": _random_state(),
            }
        )

    def _restore(self) -> None:
        if self.run_dir is None:
            raise ValueError("resume: expected a run directory, got none")
        saved = self.run_dir.load()
        for name, value in asdict(self.config).items():
            if name != "device" and saved["config"].get(name) != value:
                raise ValueError(f"{name}: expected {saved['config'].get(name)} as in the checkpoint, got {value}")
        self.model.load_state_dict(saved["model"])
        self.history, self._seconds = History(**saved["history"]), saved["seconds"]
        self.learned = [self.run_dir.load_logits(task) for task in range(self.model.tasks)]
        if self.model.learning:
            self._fit = self._begin(self.model.task)
            self._fit.load_state_dict(saved["fit"])
        _set_random_state(saved["random"])


def _random_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
