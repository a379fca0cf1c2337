"""Mixed tasks: one dataset after another, brought to one image shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hat.data.cutting import check_options, cut
from hat.data.dataset import Dataset
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
) -> Stream:
    """One task for each dataset, in the order given, with all its classes.

    Each dataset is normalised by its own training images, then resized (bilinear) to one size. Grey images
    become RGB, three times the same channel, when any dataset is RGB; that costs no memory.

    datasets: names, paths or Datasets, at least one; their images are grey or RGB when the channels differ.
    size: (H, W) of every image; None takes the largest height and the largest width among them.
    validation, seed, root, limit: as in `hat.data.permuted`.
    Raises ValueError that names the argument, and whatever `hat.data.load` raises.
    """
    check_options(validation, seed, limit, size)
    if isinstance(datasets, (str, Path, Dataset)) or len(datasets) == 0:
        raise ValueError(f"datasets: expected a list of at least one dataset, got {datasets!r}")
    loaded = [resolve(dataset, root, size) for dataset in datasets]
    shapes = [data.input_shape for data in loaded]
    height, width = size or (max(h for _, h, _ in shapes), max(w for _, _, w in shapes))
    channels = max(c for c, _, _ in shapes)
    for data in loaded:
        if data.input_shape[0] not in (1, channels):
            raise ValueError(f"datasets: expected 1 or {channels} channels, got {data.input_shape[0]} in {data.name}")
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
