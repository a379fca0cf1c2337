"""Permuted tasks: all tasks have the same images and classes, and every task has its own order of the pixels."""

from __future__ import annotations

from pathlib import Path

from hat.arguments import check_whole
from hat.data.cutting import check_memory, check_options, cut
from hat.data.dataset import Dataset
from hat.data.limits import MAX_GIB, Budget
from hat.data.loading import resolve
from hat.data.normalise import Normalisation
from hat.data.seeding import shuffled
from hat.data.stream import Stream
from hat.data.task import Task

INT64 = 8  # bytes
TASK = 4096  # bytes that the objects of a task take, beside its permutation


def permuted(
    dataset: str | Path | Dataset,
    tasks: int = 10,
    *,
    validation: float = 0.15,
    seed: int = 0,
    root: str | Path | None = None,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
    max_gib: float = MAX_GIB,
) -> Stream:
    """Tasks with all classes of a dataset, each with a fixed random permutation of the pixels.

    The permutation moves the H * W pixel positions, the same for all channels. (The literature defines permuted MNIST
    for grey images, where this permutes all values. The three numbers of a colour stay together.) Every task is
    permuted, the first too. The train, validation and test parts of a task share its permutation. Task k does not
    depend on `tasks`. All tasks share one set of images: see `hat.data.Part`.

    Args:
        dataset: a name, a path, or a Dataset.
        tasks: how many tasks, >= 1.
        validation: the fraction of the training images that becomes the validation part, in [0, 1) (0.15 in the HAT
            paper): the last of a seeded shuffle. No validation image has an identical copy among the training images.
        seed: of the permutations, the validation part and `limit`.
        root: the data root, see `hat.data.load`.
        limit: at most this many training images of each class (validation included), drawn by `seed`, for quick runs.
            The test part stays whole, and all training images count for the normalisation.
        size: (H, W) to resize every image to (bilinear); None leaves the size.
        max_gib: the most that the files may hold (see `hat.data.load`), that the normalised images may take, and that
            the permutations may take, each in GiB. Images of a Dataset may always be normalised in their own size.

    Raises:
        TypeError: `dataset` or `root` has a wrong type.
        ValueError: an argument is out of its range; the message names the argument.
        FileNotFoundError, ConnectionError, ImportError: as `hat.data.load`.
    """
    check_whole("tasks", tasks, least=1)
    check_options(validation, seed, limit, size, max_gib)
    data = resolve(dataset, root, size, max_gib)
    labels, given = range(len(data.classes)), isinstance(dataset, Dataset)
    check_memory(data, labels, limit=limit, size=size, max_gib=max_gib, given=given)
    height, width = size or data.input_shape[1:]
    Budget(max_gib).allow("tasks: the permutations", tasks * (height * width * INT64 + TASK))
    parts = cut(
        data,
        labels,
        normalisation=Normalisation.of(data.x_train),
        validation=validation,
        seed=seed,
        limit=limit,
        size=size,
    )
    pixels = parts[0].input_shape[1] * parts[0].input_shape[2]
    stream = []
    for index in range(tasks):
        order = shuffled(pixels, seed, "permutation", index)
        learn, validate, test = (part.permuted(order) for part in parts)
        stream.append(Task(f"permuted {data.name} {index}", data.classes, learn, validate, test, index))
    return Stream(f"permuted {data.name}", stream)
