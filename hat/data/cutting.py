"""Cut the parts of a task out of a dataset. All three kinds of stream do it this way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat.data.dataset import Dataset
from hat.data.distinct import at_most, split_validation
from hat.data.normalise import Normalisation
from hat.data.part import Part


def check_options(validation: float, seed: int, limit: int | None, size: tuple[int, int] | None) -> None:
    """Check the options that all streams have.

    Raises:
        ValueError: an option is out of its range.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"validation: expected a fraction in [0, 1), got {validation!r}")
    if not isinstance(seed, int):
        raise ValueError(f"seed: expected an int, got {seed!r}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit: expected None or an int >= 1, got {limit!r}")
    if size is not None and (len(size) != 2 or not all(isinstance(s, int) and s >= 1 for s in size)):
        raise ValueError(f"size: expected (H, W), each an int >= 1, got {size!r}")


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
