"""Make a Dataset from arrays: layouts of images, number types, names of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hat.data.dataset import Dataset
from hat.data.distinct import split_test
from hat.data.limits import Budget, TooLargeError

MOVED = 1024  # images that move at a time
COMPARED = 160  # bytes an image that it takes to find equal images


def image_tensor(argument: str, array: np.ndarray) -> Tensor:
    """Bring an array of images to uint8 or float32 [N, C, H, W].

    Args:
        argument: the name of the array, for the error message.
        array: [N, H, W], or [N, H, W, C] or [N, C, H, W] with C <= 4 (the last axis is tried first), or [N, D] for
            plain features, which get C = H = 1. bool, and integers in 0..255, become uint8. Other numbers become
            float32. The tensor shares the memory of the array if it can.

    Raises:
        ValueError: the array has another shape or dtype.
    """
    expected = "numbers of shape (N, H, W), (N, H, W, C), (N, C, H, W) or (N, D)"
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3, 4):
        raise ValueError(f"{argument}: expected {expected}, got {array.dtype} {array.shape}")
    if array.ndim == 2:
        array = array[:, None, None, :]
    elif array.ndim == 3:
        array = array[:, None]
    elif array.shape[3] <= 4:
        array = array.transpose(0, 3, 1, 2)
    elif array.shape[1] > 4:
        raise ValueError(f"{argument}: expected {expected} with at most 4 channels, got {array.shape}")
    as_bytes = array.dtype.kind == "b" or (
        array.dtype.kind in "iu" and array.size > 0 and array.min() >= 0 and array.max() <= 255
    )
    return torch.from_numpy(np.require(array, np.uint8 if as_bytes else np.float32, ["C", "W"]))


def label_array(argument: str, array: np.ndarray, count: int) -> np.ndarray:
    """Bring an array of labels, [count] or [count, 1], to [count].

    Raises:
        ValueError: the labels are neither whole numbers nor strings, or there are more or fewer than `count`.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (count,):
        raise ValueError(f"{argument}: expected one label an image, ({count},), got {array.shape}")
    if array.dtype.kind not in "biuU":
        raise ValueError(f"{argument}: expected whole numbers or strings, got {array.dtype}")
    return array


def make_dataset(
    path: Path | None,
    name: str,
    parts: list[tuple[np.ndarray, np.ndarray]],
    classes: Sequence[str] | None = None,
    budget: Budget | None = None,
) -> Dataset:
    """Make a Dataset from the arrays of its parts.

    Args:
        path: where the arrays come from, for error messages.
        name: of the dataset.
        parts: (images, labels) of the training part and of the test part; layouts as in `image_tensor`. If there is one
            part only, a fifth of the distinct images of each class, drawn with a fixed seed, becomes the test part. The
            list is emptied, so that memory holds the arrays and the tensors, but no third copy.
        classes: the name of each label; a label is an index into them. None: the classes are the distinct labels of
            both parts in sorted order, so the labels need not start at 0 nor be consecutive.
        budget: says how large the tensors may be; by default 2 GiB.

    Raises:
        ValueError: the arrays make no dataset, or too large a one; the message names the path.
    """
    try:
        _check_memory(path, parts, budget or Budget())
        return _make(name, parts, classes)
    except TooLargeError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_memory(path: Path | None, parts: list[tuple[np.ndarray, np.ndarray]], budget: Budget) -> None:
    """Check that the tensors fit: float32 if one part needs it, and int64 labels; strings are sorted in one array."""
    float_size = 4 if any(x.dtype.kind not in "b" and x.dtype != np.uint8 for x, _ in parts) else 1
    label_size = max([8, *(y.dtype.itemsize for _, y in parts)])
    count = sum(float_size * x.size + (label_size + COMPARED) * y.size for x, y in parts)
    if len(parts) == 1:  # the test part is copied
        count += count // 5
    budget.allow(path, count)


def _make(name: str, parts: list[tuple[np.ndarray, np.ndarray]], classes: Sequence[str] | None) -> Dataset:
    images, labels = [], []
    for part in ("train", "test")[: len(parts)]:
        x, y = parts.pop(0)
        images.append(image_tensor(f"x_{part}", x))
        labels.append(label_array(f"y_{part}", y, len(x)))
        del x, y
    if len({x.dtype for x in images}) > 1:
        images = [x.float() for x in images]
    if classes is None:
        values = np.unique(np.concatenate(labels))
        classes = [str(value) for value in values]
        labels = [np.searchsorted(values, y) for y in labels]
    elif any(y.dtype.kind == "U" for y in labels):
        raise ValueError("labels: expected whole numbers, since the classes are named, got strings")
    elif any(y.size and y.max() > np.iinfo(np.int64).max for y in labels):
        raise ValueError(f"labels: expected labels in 0..{len(classes) - 1}, got larger ones")
    targets = [torch.from_numpy(y.astype(np.int64, copy=False)) for y in labels]
    if len(images) == 1:
        rows = split_test(images[0], targets[0])
        images, targets = _cut(images.pop(), *rows), [targets[0][r] for r in rows]
    return Dataset(name, tuple(classes), images[0], targets[0], images[1], targets[1])


def _cut(x: Tensor, train: Tensor, test: Tensor) -> list[Tensor]:
    """The images at the rows of two parts. Those of the training part, in ascending order, move up in their memory."""
    others = x[test]
    for start in range(0, len(train), MOVED):
        rows = train[start : start + MOVED]
        x[start : start + len(rows)] = x[rows]
    return [x[: len(train)], others]
