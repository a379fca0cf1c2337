"""Mixed tasks: every task is another dataset, and all images have one shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hat.arguments import got
from hat.data.cutting import check_memory, check_options, cut
from hat.data.dataset import Dataset
from hat.data.limits import MAX_GIB
from hat.data.loading import resolve
from hat.data.normalise import Normalisation
from hat.data.stream import Stream
from hat.data.task import Task


def mixture(
    datasets: Sequence[str | Path | Dataset],
    *,
    size: tuple[int, int] | None = None,
    validation: float = 0.15,
    seed: int = 0,
    root: str | Path | None = None,
    limit: int | None = None,
    max_gib: float = MAX_GIB,
) -> Stream:
    """One task for each dataset, in the order given, with all classes of the dataset.

    Each dataset is normalised by its own training images, then resized (bilinear) to one size. If a dataset is RGB,
    grey images become RGB too: three times the same channel, which costs no memory.

    Args:
        datasets: names, paths or Datasets, at least one. If the numbers of channels differ, each dataset must be grey
            or have the largest number of channels.
        size: (H, W) of every image; None takes the largest height and the largest width of all datasets.
        validation, seed, root, limit: as in `hat.data.permuted`.
        max_gib: as in `hat.data.permuted`, for each dataset.

    Raises:
        TypeError: a dataset or `root` has a wrong type.
        ValueError: an argument is out of its range; the message names the argument.
        FileNotFoundError, ConnectionError, ImportError: as `hat.data.load`.
    """
    check_options(validation, seed, limit, size, max_gib)
    if isinstance(datasets, (str, bytes)) or not isinstance(datasets, Sequence) or len(datasets) == 0:
        raise ValueError(f"datasets: expected a list of at least one dataset, got {got(datasets)}")
    loaded = [resolve(dataset, root, size, max_gib) for dataset in datasets]
    shapes = [data.input_shape for data in loaded]
    height, width = size or (max(h for _, h, _ in shapes), max(w for _, _, w in shapes))
    channels = max(c for c, _, _ in shapes)
    for data in loaded:
        if data.input_shape[0] not in (1, channels):
            raise ValueError(f"datasets: expected 1 or {channels} channels, got {data.input_shape[0]} in {data.name}")
    for dataset, data in zip(datasets, loaded, strict=True):
        labels, given = range(len(data.classes)), isinstance(dataset, Dataset)
        check_memory(data, labels, limit=limit, size=(height, width), max_gib=max_gib, given=given)
    stream = []
    for index, data in enumerate(loaded):
        train, valid, test = cut(
            data,
            range(len(data.classes)),
            normalisation=Normalisation.of(data.x_train),
            validation=validation,
            seed=seed,
            limit=limit,
            size=(height, width),
            channels=channels,
        )
        stream.append(Task(f"mixture {data.name} {index}", data.classes, train, valid, test, index))
    return Stream("mixture " + " ".join(data.name for data in loaded), stream)
