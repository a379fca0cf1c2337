"""Split tasks: the classes of one dataset, a few at a time."""

from __future__ import annotations

from pathlib import Path

from hat.data.cutting import check_options, cut
from hat.data.dataset import Dataset
from hat.data.loading import resolve
from hat.data.normalise import Normalisation
from hat.data.seeding import shuffled
from hat.data.stream import Stream
from hat.data.task import Task


def split(
    dataset: str | Path | Dataset,
    classes_per_task: int = 2,
    *,
    tasks: int | None = None,
    validation: float = 0.15,
    seed: int = 0,
    shuffle_classes: bool = False,
    root: str | Path | None = None,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
) -> Stream:
    """The classes dealt out in order, `classes_per_task` to each task; labels count from 0 in every task.

    When the number of classes is no multiple, the last task has the rest.

    dataset: a name, a path, or a Dataset. classes_per_task: int >= 1.
    tasks: how many tasks to make, from the first; None makes all.
    validation: the fraction of each task's training images that validates, as in `hat.data.permuted`.
    shuffle_classes: deal the classes out in an order drawn by `seed` instead of label order.
    limit: at most so many training images of each class (validation included), drawn by `seed`; the test
        part stays whole. Normalisation is by all training images of the dataset, once.
    size: (H, W) to resize every image to (bilinear); None leaves them as they are.
    Raises ValueError that names the argument, and whatever `hat.data.load` raises.
    """
    check_options(validation, seed, limit, size)
    data = resolve(dataset, root, size)
    count = len(data.classes)
    if not isinstance(classes_per_task, int) or not 1 <= classes_per_task <= count:
        got = f"{classes_per_task!r} for {data.name}"
        raise ValueError(f"classes_per_task: expected an int in 1..{count}, got {got}")
    order = shuffled(count, seed, "classes").tolist() if shuffle_classes else list(range(count))
    groups = [order[start : start + classes_per_task] for start in range(0, count, classes_per_task)]
    if tasks is not None and (not isinstance(tasks, int) or not 1 <= tasks <= len(groups)):
        what = f"{count} classes, {classes_per_task} a task"
        raise ValueError(f"tasks: expected None or an int in 1..{len(groups)} ({what}), got {tasks!r}")
    absent = [name for label, name in enumerate(data.classes) if not bool((data.y_train == label).any())]
    if absent:
        raise ValueError(f"dataset: expected training images of every class of {data.name}, got none of {absent}")
    normalisation = Normalisation.of(data.x_train)
    stream = []
    for index, labels in enumerate(groups[:tasks]):
        parts = cut(data, labels, normalisation=normalisation, validation=validation, seed=seed, limit=limit, size=size)
        names = tuple(data.classes[label] for label in labels)
        stream.append(Task(f"split {data.name} {index}", names, *parts, index))
    return Stream(f"split {data.name}", stream)
