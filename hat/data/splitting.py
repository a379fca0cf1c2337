"""Split tasks: the classes of one dataset, a few at a time."""

from __future__ import annotations

from pathlib import Path

import torch

from hat.arguments import check_switch, got
from hat.data.cutting import check_memory, check_options, cut
from hat.data.dataset import Dataset
from hat.data.limits import MAX_GIB
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
    max_gib: float = MAX_GIB,
) -> Stream:
    """Tasks that get the classes of a dataset in order, `classes_per_task` each.

    The labels of every task count from 0. If the number of classes is no multiple of `classes_per_task`, the last task
    has fewer classes. The dataset is normalised once, by all its training images.

    Args:
        dataset: a name, a path, or a Dataset.
        classes_per_task: >= 1.
        tasks: make only this many tasks, from the first; None makes all.
        validation: the fraction of the training images of each task that becomes its validation part, as in
            `hat.data.permuted`.
        seed: of the order of the classes, the validation parts and `limit`.
        shuffle_classes: draw the order of the classes by `seed`; otherwise it is the order of the labels.
        root: the data root, see `hat.data.load`.
        limit: at most this many training images of each class (validation included), drawn by `seed`. The test part
            stays whole.
        size: (H, W) to resize every image to (bilinear); None leaves the size.
        max_gib: as in `hat.data.permuted`.

    Raises:
        TypeError: `dataset` or `root` has a wrong type.
        ValueError: an argument is out of its range; the message names the argument.
        FileNotFoundError, ConnectionError, ImportError: as `hat.data.load`.
    """
    check_options(validation, seed, limit, size, max_gib)
    check_switch("shuffle_classes", shuffle_classes)
    data = resolve(dataset, root, size, max_gib)
    count = len(data.classes)
    if type(classes_per_task) is not int or not 1 <= classes_per_task <= count:
        expected = f"an int in 1..{count}"
        raise ValueError(f"classes_per_task: expected {expected}, got {got(classes_per_task)} for {data.name}")
    order = shuffled(count, seed, "classes").tolist() if shuffle_classes else list(range(count))
    groups = [order[start : start + classes_per_task] for start in range(0, count, classes_per_task)]
    if tasks is not None and (type(tasks) is not int or not 1 <= tasks <= len(groups)):
        reason = f"{count} classes, {classes_per_task} a task"
        raise ValueError(f"tasks: expected None or an int in 1..{len(groups)} ({reason}), got {got(tasks)}")
    counts = torch.bincount(data.y_train, minlength=count).tolist()
    if empty := [name for name, images in zip(data.classes, counts, strict=True) if not images]:
        found = f"none of {empty[:5]}{' and more' if len(empty) > 5 else ''}"
        raise ValueError(f"dataset: expected training images of every class of {data.name}, got {found}")
    labels = [label for group in groups[:tasks] for label in group]
    given = isinstance(dataset, Dataset)
    check_memory(data, labels, limit=limit, size=size, max_gib=max_gib, given=given)
    normalisation = Normalisation.of(data.x_train)
    stream = []
    for index, labels in enumerate(groups[:tasks]):
        parts = cut(data, labels, normalisation=normalisation, validation=validation, seed=seed, limit=limit, size=size)
        names = tuple(data.classes[label] for label in labels)
        stream.append(Task(f"split {data.name} {index}", names, *parts, index))
    return Stream(f"split {data.name}", stream)
