"""Learn a stream of tasks, epoch by epoch, so that an interrupted run can continue exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from os import PathLike
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from hat.arguments import check_switch, check_type
from hat.data import Task
from hat.life.model import HATModel
from hat.network.interrupt import interrupt_waits
from hat.training.checks import Checks
from hat.training.config import TrainConfig
from hat.training.evaluation import evaluate
from hat.training.extra import extra_numbers
from hat.training.fit import Fit
from hat.training.growth import check_growth, make_room
from hat.training.history import History
from hat.training.identity import identity
from hat.training.lesson import TaskLesson, check_stream
from hat.training.progress import Progress
from hat.training.random_state import random_state, set_random_state
from hat.training.rundir import RunDir, check_description
from hat.training.saved import reading, restore
from hat.training.subnormals import flushed_subnormals


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        history: every epoch, the accuracy matrix, capacity and drift.
        seconds: time of training and evaluation; of a resumed run, the sum of all its parts.
    """

    history: History
    seconds: float


class Trainer:
    """Learns the tasks of a stream in order.

    Args:
        model: a fresh model; it is moved to the device of the config.
        stream: the tasks.
        config: the recipe; by default the published one.
        run_dir: the folder for metrics, checkpoints and logits, or None.
        description: the content of config.json in the run directory; None writes no such file.
        progress: show progress: bars on a terminal, otherwise a line a task.
        verify: after every task, check by `hat.verify` that all learned tasks answer as before, on the first images of
            their test parts. The result is in the row of the last epoch of the task. A resumed run compares with the
            model that it has loaded.
        grow: None, or `"auto"`: if the last tasks took more units of an axis than are free, the axis grows before the
            next task, see `hat.grow` and `hat.forecast`. Drift is then measured from the logits after the growth.
        after_epoch: is called after every epoch with the model and a copy of the row of plain numbers of the epoch,
            before the row is saved. It returns more numbers by name, which are added to the row: ints or floats, or
            tensors of one element. A name that the row has already is refused. If the function raises, or returns
            something else, the run stops with an error; the epochs before are saved.

    Attributes:
        saved: the run directory holds a checkpoint of this run.

    Raises:
        TypeError: an argument is of another class, or JSON cannot hold the description.
        ValueError: the stream is empty, a task has an empty part or other input shapes than the first task, or the
            model has already learned something; `grow` is neither None nor `"auto"`; a switch is neither True nor
            False; `run_dir` is empty; or `verify` is True in mask mode `"published"`, where all weights move a little.
    """

    def __init__(
        self,
        model: HATModel,
        stream: Sequence[Task],
        config: TrainConfig | None = None,
        *,
        run_dir: str | PathLike[str] | RunDir | None = None,
        description: dict[str, Any] | None = None,
        progress: bool = True,
        verify: bool = False,
        grow: str | None = None,
        after_epoch: Callable[[HATModel, dict[str, Any]], Mapping[str, float]] = lambda model, row: {},
    ) -> None:
        check_type("model", model, HATModel, "a HATModel")
        check_stream(stream)
        check_type("config", config, (TrainConfig, NoneType), "a TrainConfig or None")
        check_description(description)
        check_switch("progress", progress)
        check_switch("verify", verify)
        check_growth(grow)
        check_type("after_epoch", after_epoch, Callable, "a function")  # type: ignore[arg-type]
        if len(model.heads):
            raise ValueError(f"model: expected a fresh one, got a model with {len(model.heads)} tasks")
        self.config, self.stream = config or TrainConfig(), stream
        self._checks = Checks(model, stream, self.config) if verify else None
        self.run_dir = run_dir if run_dir is None or isinstance(run_dir, RunDir) else RunDir(run_dir)
        self.description, self.saved = description, False
        self.after_epoch, self.grow = after_epoch, grow
        self.model = model.to(self.config.torch_device())
        self._identity = identity(model, stream, self.config, grow=grow) if self.run_dir else {}
        self.progress = Progress(progress)
        self.history = History()
        self.learned: list[Tensor] = []
        self._fit: Fit | None = None
        self._seconds, self._since = 0.0, time.perf_counter()

    def run(self, *, resume: bool = False, overwrite: bool = False) -> TrainResult:
        """Learn every task that is not learned yet. A checkpoint is saved after every epoch.

        Args:
            resume: continue from the checkpoint in the run directory, that is from the last finished epoch before
                Ctrl-C or a crash. On the same device the run ends with the same bits as without the interruption.
            overwrite: replace an earlier run in the run directory, when the first epoch of this run is finished.

        Raises:
            ValueError: `resume` is True and there is no fitting checkpoint, both options are True, or none is and the
                run directory holds a run.
            KeyboardInterrupt: Ctrl-C; the message says what is saved.
            NonFiniteLossError: the loss became inf or NaN; the last checkpoint stays.
            ForgettingError: with `verify`, an earlier task answers differently or something that it uses has moved; the
                run is saved.
        """
        check_switch("resume", resume)
        check_switch("overwrite", overwrite)
        if resume and overwrite:
            raise ValueError("overwrite: expected False when a run is resumed, got True")
        if resume:
            self._check_saved()
        with nullcontext() if self.run_dir is None else self.run_dir.owned():
            return self._run(resume=resume, overwrite=overwrite)

    def _run(self, *, resume: bool, overwrite: bool) -> TrainResult:
        if resume:
            self._restore()
        else:
            self._start(overwrite)
        self._since = time.perf_counter()
        try:
            with flushed_subnormals():
                if self._checks is not None:
                    self._checks.start()
                while self.model.tasks < len(self.stream):
                    self._learn_task()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._what_is_saved()) from None
        finally:
            self.progress.close()
        return TrainResult(self.history, self._seconds)

    def _start(self, overwrite: bool) -> None:
        if self.run_dir is not None:
            if not overwrite:
                self.run_dir.check_free()
            self.run_dir.check_names(len(self.stream), [] if self.description is None else [self.run_dir.config.name])
        torch.manual_seed(self.config.seed)

    def _what_is_saved(self) -> str:
        if self.run_dir is None or not self.saved:
            return "nothing was saved"
        return f"all finished epochs are saved in {self.run_dir.path}; run(resume=True) continues"

    def _learn_task(self) -> None:
        if self._fit is None:
            self._fit = self._begin(self.model.tasks)
        self._fit.run(after_epoch=self._after_epoch)
        epochs, self._fit = self._fit.plateau.epoch, None
        self._evaluate(self.model.end_task())
        check = self._checks.after(self.model.tasks - 1) if self._checks is not None else None
        self.history.epochs[-1] |= check.row() if check is not None else {}
        self._save()
        self.progress.end_task(self.history.last_line(len(self.stream), epochs))
        if check is not None:
            check.require()

    def _begin(self, index: int) -> Fit:
        """Begin a task. If the model is already learning the task, continue it."""
        task = self.stream[index]
        if not self.model.learning:
            if self.grow is not None:
                self._make_room(index)
            self.model.begin_task(task.classes)
        return Fit(self.model, TaskLesson(task, index, self.config), self.config, self.progress)

    def _make_room(self, index: int) -> None:
        """Grow the model for a task. From then on measure drift from the logits of the grown model."""
        joined = make_room(self.model)
        if not joined:
            return
        change = 0.0
        for task in self.model.remembered:
            result = evaluate(self.model, self.stream[task].test, task, self.config)
            change = max(change, result.drift_from(self.learned[task]))
            self._keep_logits(task, result.logits)
        self.history.growth.append({"task": index, "units": joined, "change": change})
        if self._checks is not None:
            self._checks.start()
        self._save()

    def _keep_logits(self, task: int, logits: Tensor) -> None:
        """Keep the logits from which the drift of a task is measured."""
        self.learned[task:] = [logits, *self.learned[task + 1 :]]
        if self.run_dir is not None:
            self.run_dir.save_logits(task, logits)

    def _after_epoch(self, row: dict[str, Any]) -> None:
        extra = extra_numbers(self.after_epoch(self.model, dict(row)), row)
        self.history.epochs.append({"task": self.model.task, **row, **extra})
        self._save()

    def _evaluate(self, last: int) -> None:
        """Add a row of accuracy, capacity and drift to the history."""
        accuracy, drift = [], []
        for index in range(last + 1):
            if index in self.model.forgotten:
                accuracy.append(math.nan)
                drift.append(math.nan)
                continue
            result = evaluate(self.model, self.stream[index].test, index, self.config)
            if index == last:
                self._keep_logits(index, result.logits)
            accuracy.append(result.accuracy)
            drift.append(result.drift_from(self.learned[index]))
        self.history.names.append(self.stream[last].name)
        self.history.accuracy.append(accuracy)
        self.history.drift.append(drift)
        self.history.capacity.append(self.model.capacity())

    def _save(self) -> None:
        now = time.perf_counter()
        self._seconds, self._since = self._seconds + now - self._since, now
        if self.run_dir is None:
            return
        payload = {
            "identity": self._identity,
            "model": self.model.state_dict(),
            "fit": self._fit.state_dict() if self._fit else None,
            "history": asdict(self.history),
            "seconds": self._seconds,
            "random": random_state(),
        }
        with interrupt_waits():
            if self.saved:
                self.run_dir.save(payload)
            else:
                self.run_dir.begin(payload, self.description)
            self.saved = True
            self.run_dir.write_history(self.history)

    def _check_saved(self) -> None:
        if self.run_dir is None:
            raise ValueError("resume: expected a run directory, got none")
        self.run_dir.check_saved()

    def _restore(self) -> None:
        assert self.run_dir is not None  # `run` has checked it
        saved = restore(self.run_dir, self.model, self._identity)
        self.history, self._seconds = History(**saved["history"]), saved["seconds"]
        self.learned = [
            self.run_dir.load_logits(index, images=len(task.test), classes=len(task.classes))
            if index not in self.model.forgotten
            else torch.empty(0)
            for index, task in enumerate(self.stream[: self.model.tasks])
        ]
        self._fit = self._begin(self.model.task) if self.model.learning else None
        with reading(self.run_dir.checkpoint):
            if self._fit is not None:
                self._fit.load_state_dict(saved["fit"])
            set_random_state(saved["random"])
        self.saved = True
        self.run_dir.write_history(self.history)  # a killed run may have written the checkpoint, but not these files
