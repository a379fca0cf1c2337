"""Cut a set of images in two so that no image is on both sides."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from hat.data.seeding import generator, shuffled


def image_ids(x: Tensor) -> Tensor:
    """Number the distinct images of x [N, ...].

    Returns:
        int64 [N]. Two images have one number exactly if their bytes are identical (by a 128-bit digest).
    """
    rows = x.detach().cpu().contiguous().flatten(1).numpy()
    seen: dict[bytes, int] = {}
    ids = [seen.setdefault(hashlib.blake2b(row.data, digest_size=16).digest(), len(seen)) for row in rows]
    return torch.tensor(ids, dtype=torch.int64)


def split_validation(x: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw a validation part: the last `fraction` of a seeded shuffle.

    A validation image that also occurs in the training part then goes back to the training part, so the two parts
    share no image.

    Args:
        x: [N, ...].
        fraction: in [0, 1). 0 gives an empty validation part. Any other fraction draws at least one image.
        seed: of the shuffle.

    Returns:
        Row numbers (train, validation), int64.
    """
    order = shuffled(len(x), seed, "validation")
    count = int(fraction * len(x))
    if fraction > 0 and len(x) > 1:
        count = max(count, 1)
    if count == 0:
        return order, order[:0]
    train, validation = order[:-count], order[-count:]
    ids = image_ids(x)
    if int(ids.max()) + 1 < len(x):
        shared = torch.isin(ids[validation], ids[train])
        train, validation = torch.cat([train, validation[shared]]), validation[~shared]
    return train, validation


def split_test(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a test part for a dataset that comes in one part.

    The test part gets the last fifth of a seeded shuffle of the distinct images of every class, at least one
    image. Copies of an image go where the image goes.

    Returns:
        Row numbers (train, test), int64, both sorted.

    Raises:
        ValueError: a class has fewer than two distinct images.
    """
    ids = image_ids(x)
    first = torch.full((int(ids.max()) + 1,), len(ids)).scatter_reduce(0, ids, torch.arange(len(ids)), "amin")
    in_test = torch.zeros(len(first), dtype=torch.bool)
    firsts = dict(_by_label(y[first]))
    for label in y.unique().tolist():
        members = firsts.get(label, first[:0])
        if len(members) < 2:
            raise ValueError(
                f"label {label}: expected at least 2 distinct images to make a train and a test part, "
                f"got {len(members)}"
            )
        members = members[torch.randperm(len(members), generator=generator(0, "test", label))]
        in_test[members[-max(1, round(0.2 * len(members))) :]] = True
    test = in_test[ids]
    return (~test).nonzero().flatten(), test.nonzero().flatten()


def at_most(y: Tensor, limit: int | None, seed: int) -> Tensor:
    """Sorted row numbers of at most `limit` images of each label in y [N], drawn by `seed`. None keeps all images."""
    if limit is None:
        return torch.arange(len(y))
    order = shuffled(len(y), seed, "limit")
    kept = [order[places[: min(limit, len(y))]] for _, places in _by_label(y[order])]
    return torch.cat(kept).sort().values


def _by_label(y: Tensor) -> list[tuple[int, Tensor]]:
    """(label, the places of the label in y [N], ascending) for every label in ascending order."""
    labels, counts = y.unique(return_counts=True)
    places = y.argsort(stable=True).split(counts.tolist())
    return list(zip(labels.tolist(), places, strict=True))
