"""A lesson: the batches that the training loop learns from, of one task or of all tasks of a stream at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, cast

import torch
from torch import Tensor

from hat.arguments import check_type, got
from hat.data import Task
from hat.data.part import placed
from hat.data.seeding import shuffled
from hat.life.model import HATModel
from hat.training.config import TrainConfig
from hat.training.evaluation import Answers, evaluate


class Lesson(Protocol):
    """Batches to learn from, and a validation part."""

    name: str

    def __len__(self) -> int:
        """The number of batches of an epoch."""

    def epoch(self, epoch: int) -> Iterator[tuple[float, Tensor, Tensor, int]]:
        """(progress, images, labels, task) of every batch of an epoch. Every call gives the same batches."""

    def validate(self, model: HATModel) -> tuple[float, float]:
        """(mean loss, mean accuracy) on the validation part."""


class TaskLesson:
    """One task."""

    def __init__(self, task: Task, index: int, config: TrainConfig) -> None:
        self.index, self.config = index, config
        self.answers: Answers | None = None
        device = config.torch_device()
        train, validation = placed(task.train, device), placed(task.validation, device)
        self.task = replace(task, train=train, validation=validation)
        self.name = task.name

    def __len__(self) -> int:
        return -(-len(self.task.train) // self.config.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[float, Tensor, Tensor, int]]:
        for progress, (x, y) in self.task.epoch(
            epoch, batch_size=self.config.batch_size, seed=self.config.seed, device=self.config.torch_device()
        ):
            yield progress, x, y, self.index

    def validate(self, model: HATModel) -> tuple[float, float]:
        if self.answers is None or self.answers.model is not model:
            self.answers = Answers(model, self.index, self.config)
        result = evaluate(model, self.task.validation, self.index, self.config, answers=self.answers)
        return result.loss, result.accuracy


class JointLesson:
    """All tasks of a stream at once, one task a batch, in random order: the multi-task reference of the HAT paper."""

    def __init__(self, tasks: Sequence[Task], config: TrainConfig) -> None:
        self.lessons = [TaskLesson(task, index, config) for index, task in enumerate(tasks)]
        self.config = config
        self.name = f"{len(tasks)} tasks at once"

    def __len__(self) -> int:
        return sum(len(lesson) for lesson in self.lessons)

    def epoch(self, epoch: int) -> Iterator[tuple[float, Tensor, Tensor, int]]:
        owners = torch.cat([torch.full((len(lesson),), index) for index, lesson in enumerate(self.lessons)])
        batches = [lesson.epoch(epoch) for lesson in self.lessons]
        for owner in owners[shuffled(len(owners), self.config.seed, "joint", epoch)].tolist():
            yield next(batches[owner])

    def validate(self, model: HATModel) -> tuple[float, float]:
        results = [lesson.validate(model) for lesson in self.lessons]
        return sum(r[0] for r in results) / len(results), sum(r[1] for r in results) / len(results)


def check_stream(stream: object) -> None:
    """Refuse before training a stream that would end the training later.

    Raises:
        TypeError: `stream` is no sequence of tasks.
        ValueError: there is no task, a task has other inputs than the first, or a task has no images to train, validate
            or test with; the message names the task and the part.
    """
    is_like_a_list = all(hasattr(stream, name) for name in ("__len__", "__getitem__"))
    if isinstance(stream, (str, bytes, Mapping, Tensor)) or not is_like_a_list:
        raise TypeError(f"stream: expected a sequence of tasks, such as a list, got {got(stream)}")
    tasks = cast("Sequence[Task]", stream)
    if not len(tasks):
        raise ValueError("stream: expected at least one task, got none")
    for index, task in enumerate(tasks):
        check_type("stream", task, Task, f"a hat.data.Task in place {index}")
        if task.input_shape != tasks[0].input_shape:
            expected = f"inputs of {tasks[0].input_shape} as in task {tasks[0].name!r}"
            raise ValueError(f"stream: expected {expected}, got {task.input_shape} in task {task.name!r}")
        for name, part in (("train", task.train), ("validation", task.validation), ("test", task.test)):
            if not len(part):
                raise ValueError(f"stream: expected at least one {name} image in task {task.name!r}, got none")
