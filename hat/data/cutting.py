"""Cut the parts of a task out of a dataset. All three kinds of stream do it this way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat.arguments import check_number, check_whole
from hat.data.dataset import Dataset, check_size
from hat.data.distinct import at_most, split_validation
from hat.data.limits import Budget
from hat.data.normalise import Normalisation
from hat.data.part import Part
from hat.data.seeding import check_seed

FLOAT32 = 4  # bytes


def check_options(validation: object, seed: object, limit: object, size: object, max_gib: float) -> None:
    """Check the options that all streams have.

    Raises:
        ValueError: an option is out of its range.
    """
    check_number("validation", validation, least=0, below=1)
    check_seed(seed)
    if limit is not None:
        check_whole("limit", limit, least=1)
    check_size(size)
    Budget(max_gib)  # refuses a wrong limit


def check_memory(
    dataset: Dataset,
    labels: Sequence[int],
    *,
    limit: int | None,
    size: tuple[int, int] | None,
    max_gib: float,
    given: bool,
) -> None:
    """Check how much memory the normalised images of the tasks will take, before they take it.

    Args:
        dataset: where the images come from.
        labels: of all tasks.
        limit: at most this many training images of each class.
        size: (H, W) of the images of the tasks; None takes that of the dataset.
        max_gib: the most that they may take, in GiB.
        given: whether the user made the dataset. Then its images may always be normalised in their own size.

    Raises:
        ValueError: they take more than `max_gib`.
    """
    classes, chosen = len(dataset.classes), torch.tensor(list(labels))
    train, test = (torch.bincount(y, minlength=classes)[chosen] for y in (dataset.y_train, dataset.y_test))
    rows = int(train.clamp(max=min(limit or 1 << 62, 1 << 62)).sum() + test.sum())
    channels, height, width = (dataset.input_shape[0], *(size or dataset.input_shape[1:]))
    count = FLOAT32 * rows * channels * height * width
    if not given or count > FLOAT32 * (dataset.x_train.numel() + dataset.x_test.numel()):
        Budget(max_gib).allow(f"{dataset.name}: {rows} images of {(channels, height, width)} in float32", count)


def cut(
    dataset: Dataset,
    labels: Sequence[int],
    *,
    normalisation: Normalisation,
    validation: float,
    seed: int,
    limit: int | None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> tuple[Part, Part, Part]:
    """Cut out the images that have one of the labels.

    Args:
        dataset: where the images come from.
        labels: of the task; they become 0, 1, ... in this order.
        normalisation: of the images.
        validation: the fraction of the training images that becomes the validation part.
        seed: of all that is drawn.
        limit: at most this many training images of each class, drawn before the validation part is cut off.
        size: (H, W) to resize the images to; None leaves their size.
        channels: how many equal channels grey images get; None leaves the channels.

    Returns:
        (train, validation, test).
    """
    local = torch.full((len(dataset.classes),), -1)
    local[list(labels)] = torch.arange(len(labels))
    train_rows = (local[dataset.y_train] >= 0).nonzero().flatten()
    train_rows = train_rows[at_most(dataset.y_train[train_rows], limit, seed)]
    test_rows = (local[dataset.y_test] >= 0).nonzero().flatten()
    learn, validate = split_validation(dataset.x_train[train_rows], validation, seed)

    def part(x: Tensor, y: Tensor, rows: Tensor) -> Part:
        return Part(normalisation.apply(x, rows, size), local[y[rows]], channels=channels)

    return (
        part(dataset.x_train, dataset.y_train, train_rows[learn]),
        part(dataset.x_train, dataset.y_train, train_rows[validate]),
        part(dataset.x_test, dataset.y_test, test_rows),
    )
