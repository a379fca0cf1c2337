"""One task: its classes, its three parts, and the batches of its epochs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor

from hat.arguments import check_number, check_type, check_whole
from hat.data.dataset import check_labels, checked_classes
from hat.data.part import Part, checked_device, placed
from hat.data.seeding import check_seed, shuffled

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Task:
    """The images and labels that a network learns before it goes on to the next task.

    Attributes:
        name: for people, distinct within a stream ("permuted fashion-mnist 3").
        classes: the name of each label 0..len(classes)-1 of this task.
        train, validation, test: parts with one image shape. `train` is not empty; the others may be empty.
        index: the place of the task in the stream, from 0.

    Raises:
        TypeError: the name is no str, a part no Part, or the classes no sequence of names.
        ValueError: `train` is empty, `index` is no int >= 0, two classes have one name, or the image shape or the
            labels of a part do not fit.
    """

    name: str
    classes: tuple[str, ...]
    train: Part = field(repr=False)
    validation: Part = field(repr=False)
    test: Part = field(repr=False)
    index: int = 0

    def __post_init__(self) -> None:
        check_type("name", self.name, str, "a str")
        object.__setattr__(self, "classes", checked_classes(self.classes))
        for name in ("train", "validation", "test"):
            check_type(name, getattr(self, name), Part, "a hat.data.Part")
        check_whole("index", self.index, least=0)
        if len(self.train) == 0:
            raise ValueError(f"train: expected at least one image in task {self.name!r}, got none")
        for name, part in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if part.input_shape != self.input_shape:
                raise ValueError(f"{name}: expected images of {self.input_shape} as in train, got {part.input_shape}")
            check_labels(name, part.y, len(part), len(self.classes))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.train.input_shape

    def batches(
        self, *, epochs: int = 1, batch_size: int = 64, seed: int = 0, device: torch.device | str | None = None
    ) -> Iterator[tuple[float, Batch]]:
        """The training batches of epochs 0..epochs-1, one epoch after the other; see `epoch`.

        Args:
            epochs: >= 0.
            batch_size, seed, device: as in `epoch`.

        Raises:
            TypeError: `device` is neither a str nor a torch.device.
            ValueError: `epochs`, `batch_size` or `seed` is out of its range, or this machine has no such device.
        """
        check_whole("epochs", epochs, least=0)
        check_whole("batch_size", batch_size, least=1)
        check_seed(seed)
        task = self if device is None else replace(self, train=placed(self.train, checked_device(device)))
        batches_by_epoch = (task.epoch(e, batch_size=batch_size, seed=seed, device=device) for e in range(epochs))
        return chain.from_iterable(batches_by_epoch)

    def epoch(
        self, epoch: int, *, batch_size: int = 64, seed: int = 0, device: torch.device | str | None = None
    ) -> Iterator[tuple[float, Batch]]:
        """The shuffled training batches of one epoch.

        The order depends on (seed, task name, index, epoch) alone, not on earlier draws: a resumed run sees the same
        batches as an uninterrupted run.

        Args:
            epoch: >= 0.
            batch_size: images a batch, >= 1; the last batch may be smaller.
            seed: of the order.
            device: of the batches; None is the device of the part. If the images take no more than half of the free
                memory of a GPU, all of them are moved there at once and stay as long as the iterator lives. `to` keeps
                them there for longer.

        Returns:
            An iterator over (progress, (x, y)). `progress` is (b-1)/(B-1) for batch b = 1..B of the epoch, in [0, 1],
            and 1.0 if B = 1; `x` is float32 [n, C, H, W]; `y` is int64 [n].

        Raises:
            TypeError, ValueError: as in `batches`; `epoch` is no int in 0..2^63.
        """
        check_whole("epoch", epoch, least=0)
        check_number("epoch", epoch, below=1 << 63)
        check_whole("batch_size", batch_size, least=1)
        check_seed(seed)
        target = self.train.device if device is None else checked_device(device)
        part = placed(self.train, target)
        order = shuffled(len(part), seed, self.name, self.index, epoch).to(part.device)
        return _serve(part, order.split(min(batch_size, len(part))), target)

    def to(self, device: torch.device | str) -> Task:
        """This task with its parts on `device`.

        Raises:
            TypeError, ValueError: as in `batches`.
        """
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **parts)


def _serve(part: Part, rows: tuple[Tensor, ...], device: torch.device) -> Iterator[tuple[float, Batch]]:
    last = len(rows) - 1
    for number, batch in enumerate(rows):
        x, y = part._take(batch)
        yield (number / last if last else 1.0), (x.to(device), y.to(device))
