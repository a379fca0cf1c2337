"""References to compare HAT with: each task alone, all tasks at once, or task after task without attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from hat.data import Task
from hat.life.model import HATModel
from hat.training.config import TrainConfig
from hat.training.evaluation import evaluate
from hat.training.fit import Fit
from hat.training.lesson import JointLesson
from hat.training.progress import Progress
from hat.training.trainer import Trainer

REFERENCES = ("alone", "joint", "sequential")


def reference_accuracy(
    kind: str,
    make_model: Callable[[], HATModel],
    stream: Sequence[Task],
    config: TrainConfig,
    *,
    progress: bool = True,
) -> list[float]:
    """Train without HAT, by the same recipe, and test.

    Args:
        kind: `"alone"`, a fresh network for each task; `"joint"`, one network for all tasks at once (the multi-task
            reference of the forgetting ratio); or `"sequential"`, one network for task after task, which forgets.
        make_model: makes a fresh model; a `PlainModel` for a reference without HAT.
        stream: the tasks.
        config: the recipe.
        progress: show progress.

    Returns:
        The test accuracy of every task, in [0, 1].

    Raises:
        ValueError: the kind is unknown.
    """
    if kind == "alone":
        return [_sequential(make_model(), [task], config, progress)[0] for task in stream]
    if kind == "joint":
        return _joint(make_model(), stream, config, progress)
    if kind == "sequential":
        return _sequential(make_model(), stream, config, progress)
    raise ValueError(f"kind: expected one of {REFERENCES}, got {kind!r}")


def _sequential(model: HATModel, stream: Sequence[Task], config: TrainConfig, progress: bool) -> list[float]:
    return Trainer(model, stream, config, progress=progress).run().history.accuracy[-1]


def _joint(model: HATModel, stream: Sequence[Task], config: TrainConfig, progress: bool) -> list[float]:
    torch.manual_seed(config.seed)
    model.to(config.torch_device())
    for task in stream[:-1]:
        model.begin_task(task.classes)
        model.end_task()
    model.begin_task(stream[-1].classes)
    fit = Fit(model, JointLesson(stream, config), config, Progress(progress))
    fit.run(after_epoch=lambda row: None)
    model.end_task()
    return [evaluate(model, task.test, index, config).accuracy for index, task in enumerate(stream)]
