"""A dataset of labelled images in memory, as a reader returns it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of a training and a test part, not yet normalised and not yet cut into tasks.

    Attributes:
        name: of the dataset, for tables and the names of tasks.
        classes: the name of each label, in the order of the labels.
        x_train, x_test: uint8 or float32 [N, C, H, W], both of one dtype and one image shape, N >= 1.
        y_train, y_test: int64 [N], in 0..len(classes)-1.

    Raises:
        TypeError: an image or label field is not a tensor.
        ValueError: a shape, dtype, number of images, name of a class or value is not as above.
    """

    name: str
    classes: tuple[str, ...]
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))
        if len(self.classes) == 0 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: expected distinct names, at least one, got {self.classes}")
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            _check_images(f"x_{part}", x)
            check_labels(f"y_{part}", y, len(x), len(self.classes))
        if self.x_train.shape[1:] != self.x_test.shape[1:] or self.x_train.dtype != self.x_test.dtype:
            expected = f"(N, {', '.join(map(str, self.input_shape))}) {self.x_train.dtype} as x_train"
            raise ValueError(f"x_test: expected {expected}, got {tuple(self.x_test.shape)} {self.x_test.dtype}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {len(self.classes)} classes, {len(self.x_train)} train and "
            f"{len(self.x_test)} test images of {self.input_shape}, {self.x_train.dtype})"
        )


def _check_images(argument: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{argument}: expected a tensor, got {type(x).__name__}")
    if x.dtype not in (torch.uint8, torch.float32) or x.ndim != 4 or x.numel() == 0:
        expected = "uint8 or float32 (N, C, H, W) with at least one image"
        raise ValueError(f"{argument}: expected {expected}, got {x.dtype} {tuple(x.shape)}")
    if x.dtype == torch.float32 and not bool(torch.isfinite(x).all()):
        raise ValueError(f"{argument}: expected finite values, got NaN or infinity")


def check_labels(argument: str, y: Tensor, count: int, classes: int) -> None:
    """Check labels: int64 [count] with values in 0..classes-1.

    Raises:
        TypeError: `y` is not a tensor.
        ValueError: the shape, the dtype or a value differs.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"{argument}: expected a tensor, got {type(y).__name__}")
    if y.dtype != torch.int64 or y.shape != (count,):
        raise ValueError(f"{argument}: expected int64 ({count},), got {y.dtype} {tuple(y.shape)}")
    if count and not y.is_meta and not 0 <= int(y.min()) <= int(y.max()) < classes:
        got = f"{int(y.min())}..{int(y.max())}"
        raise ValueError(f"{argument}: expected labels in 0..{classes - 1} ({classes} classes), got {got}")
