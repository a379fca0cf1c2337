"""Reader: the python batches of CIFAR-10 and CIFAR-100, in a folder or their tar.gz."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hat.data.archive import entries
from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset
from hat.data.unpickling import unpickle

CIFAR10 = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
CIFAR100 = ("train", "test", "meta")


def holds_cifar(names: Iterable[str]) -> bool:
    """Whether the file names of a folder are those of CIFAR-10 or CIFAR-100, complete or not."""
    names = set(names)
    return "data_batch_1" in names or "test_batch" in names or {"train", "test", "meta"} <= names


def read_cifar(path: str | Path, name: str) -> Dataset:
    """Read the python batches of CIFAR-10 or CIFAR-100.

    The labels of CIFAR-100 are the 100 fine ones. The pickles are read by an unpickler that knows only numpy arrays and
    plain containers, so nothing in them is executed.

    Args:
        path: a folder with the batches, or a tar.gz of that folder.
        name: of the dataset.

    Raises:
        FileNotFoundError: a batch is missing; the message names the batch.
        ValueError: a batch is damaged; the message names the batch.
    """
    path = Path(path)
    batch_names = {*CIFAR10, *CIFAR100}
    files = {n[-1]: read() for n, read in entries(path) if read is not None and len(n) <= 2 and n[-1] in batch_names}
    ten = any(file in files for file in CIFAR10)
    for file in CIFAR10 if ten else CIFAR100:
        if file not in files:
            raise FileNotFoundError(f"{path / file}: no such file among the CIFAR batches")
    content = {file: unpickle(f"{path / file}", files[file]) for file in (CIFAR10 if ten else CIFAR100)}
    labels, names = ("labels", "label_names") if ten else ("fine_labels", "fine_label_names")
    batches = {file: _batch(path / file, content[file], labels) for file in content if not file.endswith("meta")}
    test = batches.pop("test_batch" if ten else "test")
    meta = path / ("batches.meta" if ten else "meta")
    classes = content[meta.name].get(names)
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise ValueError(f"{meta}: expected a list of strings under {names!r}, got {type(classes).__name__}")
    x, y = (np.concatenate([batch[i] for batch in batches.values()]) for i in (0, 1))
    return make_dataset(path, name, (x, y), test, classes)


def _batch(where: Path, content: dict[str, Any], labels: str) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, 3, 32, 32], labels int64 [N]) of one batch."""
    data, y = content.get("data"), content.get(labels)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{where}: expected 'data' uint8 (N, 3072), got {got}")
    if not isinstance(y, list) or len(y) != len(data) or not all(isinstance(label, int) for label in y):
        got = f"{len(y)} values" if isinstance(y, list) else type(y).__name__
        raise ValueError(f"{where}: expected {labels!r}, a list of {len(data)} integers, got {got}")
    return data.reshape(-1, 3, 32, 32), np.array(y, dtype=np.int64)
