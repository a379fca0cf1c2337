"""Permuted tasks: the same images and classes, the pixels in another order for each task."""

from __future__ import annotations

from pathlib import Path

from hat.data.cutting import check_options, cut
from hat.data.dataset import Dataset
from hat.data.loading import resolve
from hat.data.normalise import Normalisation
from hat.data.seeding import shuffled
from hat.data.stream import Stream
from hat.data.task import Task


def permuted(
    dataset: str | Path | Dataset,
    tasks: int = 10,
    *,
    validation: float = 0.15,
    seed: int = 0,
    root: str | Path | None = None,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
) -> Stream:
    """`tasks` tasks, each with all classes and one fixed random permutation of the pixels.

    The permutation moves the H * W pixel positions, the same for all channels (on grey images, for which
    the literature defines permuted MNIST, that is a permutation of all values; a colour keeps its three
    numbers together). Every task is permuted, the first too; its train, validation and test parts share the
    permutation. Task k does not depend on `tasks`. All tasks share one set of images: see `hat.data.Part`.

    dataset: a name, a path, or a Dataset. tasks: int >= 1.
    validation: the fraction of the training images, the last of a seeded shuffle, that validates, in [0, 1)
        (0.15 in the HAT paper). No validation image has an identical copy among the training images.
    seed: of the permutations, the validation part and `limit`.
    root: the data root, see `hat.data.load`.
    limit: at most so many training images of each class (validation included), drawn by `seed`, for quick
        runs; the test part stays whole, and normalisation is by all training images.
    size: (H, W) to resize every image to (bilinear); None leaves them as they are.
    Raises ValueError that names the argument, and whatever `hat.data.load` raises.
    """
    if not isinstance(tasks, int) or tasks < 1:
        raise ValueError(f"tasks: expected an int >= 1, got {tasks!r}")
    check_options(validation, seed, limit, size)
    data = resolve(dataset, root, size)
    parts = cut(
        data,
        range(len(data.classes)),
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
