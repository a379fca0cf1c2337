"""A dataset of labelled images in memory, as a reader returns it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hat.arguments import check_type, got


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of a training and a test part, not yet normalised and not yet cut into tasks.

    Attributes:
        name: of the dataset, for tables and the names of tasks.
        classes: the name of each label, in the order of the labels.
        x_train, x_test: uint8 or float32 [N, C, H, W], both of one dtype and one image shape, N >= 1, on the CPU.
        y_train, y_test: int64 [N], in 0..len(classes)-1.

    Raises:
        TypeError: the name is no str, or an image or label field is not a tensor.
        ValueError: a shape, dtype, number of images, name of a class or value is not as above.
    """

    name: str
    classes: tuple[str, ...]
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    def __post_init__(self) -> None:
        check_type("name", self.name, str, "a str")
        object.__setattr__(self, "classes", checked_classes(self.classes))
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            _check_images(f"x_{part}", x)
            check_labels(f"y_{part}", y, len(x), len(self.classes))
            if not x.is_cpu or not y.is_cpu:
                raise ValueError(f"x_{part}, y_{part}: expected tensors on the CPU, got {x.device} and {y.device}")
            object.__setattr__(self, f"x_{part}", x.detach())
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


def checked_classes(classes: object) -> tuple[str, ...]:
    """The names of classes as a tuple of str.

    Raises:
        TypeError: they are no sequence of strings and whole numbers.
        ValueError: there is none, or two are equal.
    """
    check_type("classes", classes, (Sequence, np.ndarray), "a sequence of names")
    assert isinstance(classes, (Sequence, np.ndarray))
    if isinstance(classes, np.ndarray) and classes.ndim != 1:
        raise ValueError(f"classes: expected a sequence of names, got an array of shape {classes.shape}")
    for name in classes:
        check_type("classes", name, (str, int, np.integer), "names that are str")
        if isinstance(name, int) and name.bit_length() > 64:
            raise ValueError(f"classes: expected names that are str, got {got(name)}")
    names = tuple(str(name) for name in classes)
    if len(set(names)) != len(names) or not names:
        repeated = next((name for name, count in Counter(names).items() if count > 1), None)
        found = "none" if repeated is None else f"{got(repeated)} twice"
        raise ValueError(f"classes: expected distinct names, at least one, got {found}")
    return names


def check_size(size: object) -> None:
    """Check a size to resize images to.

    Raises:
        ValueError: it is neither None nor (H, W), each an int >= 1.
    """
    if size is None:
        return
    sizes = list(size) if isinstance(size, (tuple, list)) else []
    if len(sizes) != 2 or not all(type(s) is int and 1 <= s < 1 << 31 for s in sizes):
        shown = f"({', '.join(map(got, sizes))})" if 0 < len(sizes) <= 4 else got(size)
        raise ValueError(f"size: expected (H, W), each an int >= 1, got {shown}")


def _check_images(argument: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{argument}: expected a tensor, got {type(x).__name__}")
    if x.layout != torch.strided:
        raise ValueError(f"{argument}: expected a dense tensor, got {x.layout}")
    if x.dtype not in (torch.uint8, torch.float32) or x.ndim != 4 or x.numel() == 0:
        expected = "uint8 or float32 (N, C, H, W) with at least one image"
        raise ValueError(f"{argument}: expected {expected}, got {x.dtype} {tuple(x.shape)}")
    if x.dtype == torch.float32 and not x.is_meta and not bool(torch.isfinite(x).all()):
        raise ValueError(f"{argument}: expected finite values, got NaN or infinity")


def check_labels(argument: str, y: Tensor, count: int, classes: int) -> None:
    """Check labels: int64 [count] with values in 0..classes-1.

    Raises:
        TypeError: `y` is not a tensor.
        ValueError: the shape, the dtype or a value differs.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"{argument}: expected a tensor, got {type(y).__name__}")
    if y.layout != torch.strided:
        raise ValueError(f"{argument}: expected a dense tensor, got {y.layout}")
    if y.dtype != torch.int64 or y.shape != (count,):
        raise ValueError(f"{argument}: expected int64 ({count},), got {y.dtype} {tuple(y.shape)}")
    if count and not y.is_meta and not 0 <= int(y.min()) <= int(y.max()) < classes:
        got = f"{int(y.min())}..{int(y.max())}"
        raise ValueError(f"{argument}: expected labels in 0..{classes - 1} ({classes} classes), got {got}")
