"""References to compare HAT with: each task alone, all tasks at once, or task after task without attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from hat.arguments import check_choice, check_switch, check_type
from hat.data import Task
from hat.life.model import HATModel
from hat.training.config import TrainConfig
from hat.training.evaluation import evaluate
from hat.training.fit import Fit
from hat.training.lesson import JointLesson, check_stream
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
        TypeError: an argument is of another class, or `make_model` makes something else than a model.
        ValueError: the kind is unknown, the stream is refused as by `Trainer`, or `progress` is neither True nor False.
    """
    check_choice("kind", kind, REFERENCES)
    check_type("make_model", make_model, Callable, "a function that makes a model")  # type: ignore[arg-type]
    check_stream(stream)
    check_type("config", config, TrainConfig, "a TrainConfig")
    check_switch("progress", progress)
    if kind == "alone":
        return [_sequential(_made(make_model), [task], config, progress)[0] for task in stream]
    learn = _joint if kind == "joint" else _sequential
    return learn(_made(make_model), stream, config, progress)


def _made(make_model: Callable[[], HATModel]) -> HATModel:
    model = make_model()
    check_type("make_model", model, HATModel, "a function that makes a HATModel")
    if len(model.heads):
        raise ValueError(f"make_model: expected a fresh model, got a model with {len(model.heads)} tasks")
    return model


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
