"""Reader: the python batches of CIFAR-10 and CIFAR-100, in a folder or their tar.gz."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hat.data.archive import entries
from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset
from hat.data.limits import MAX_GIB, Budget
from hat.data.unpickling import unpickle

CIFAR10 = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
CIFAR100 = ("train", "test", "meta")


def holds_cifar(names: Iterable[str]) -> bool:
    """Whether the file names of a folder are those of CIFAR-10 or CIFAR-100, complete or not."""
    names = set(names)
    return "data_batch_1" in names or "test_batch" in names or {"train", "test", "meta"} <= names


def read_cifar(path: str | Path, name: str, *, max_gib: float = MAX_GIB) -> Dataset:
    """Read the python batches of CIFAR-10 or CIFAR-100.

    The labels of CIFAR-100 are the 100 fine ones. The pickles are read by an unpickler that knows only numpy arrays and
    plain containers, so nothing in them is executed. Labels may be a list or an array.

    Args:
        path: a folder with the batches, or a tar.gz of that folder.
        name: of the dataset.
        max_gib: the most that the batches may hold, in GiB.

    Raises:
        FileNotFoundError: a batch is missing; the message names the batch.
        ValueError: a batch is damaged or too large; the message names the batch.
    """
    path, budget = Path(path), Budget(max_gib)
    files: dict[str, bytes] = {}
    for inside, read in entries(path, budget):
        if read is not None and len(inside) <= 2 and inside[-1] in (*CIFAR10, *CIFAR100):
            files[inside[-1]] = read()
            budget.hold(path / inside[-1], len(files[inside[-1]]))
    ten = any(file in files for file in CIFAR10)
    needed = CIFAR10 if ten else CIFAR100
    for file in needed:
        if file not in files:
            raise FileNotFoundError(f"{path / file}: expected all files of the CIFAR batches, got no such file")
    labels, names = ("labels", "label_names") if ten else ("fine_labels", "fine_label_names")
    meta = path / needed[-1]
    classes = unpickle(str(meta), files.pop(meta.name), budget).get(names)
    if not isinstance(classes, list) or not all(isinstance(c, (str, bytes)) for c in classes):
        raise ValueError(f"{meta}: expected a list of strings under {names!r}, got {type(classes).__name__}")
    classes = [c.decode("latin1") if isinstance(c, bytes) else c for c in classes]
    batches = [_batch(path / file, files.pop(file), labels, budget) for file in needed[:-1]]
    test = batches.pop()
    train = (np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches]))
    batches.clear()
    parts = [train, test]
    del train, test
    return make_dataset(path, name, parts, classes, budget)


def _batch(where: Path, pickled: bytes, labels: str, budget: Budget) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, 3, 32, 32], labels int64 [N]) of one batch."""
    content = unpickle(str(where), pickled, budget)
    data, y = content.get("data"), content.get(labels)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"{where}: expected 'data' uint8 (N, 3072), got {got}")
    if isinstance(y, np.ndarray) and y.shape == data.shape[:1] and y.dtype.kind in "iu":
        y = y.tolist()
    whole = isinstance(y, list) and all(isinstance(label, int) and 0 <= label < 1 << 32 for label in y)
    if not isinstance(y, list) or len(y) != len(data) or not whole:
        got = f"{len(y)} values" if isinstance(y, list) else type(y).__name__
        raise ValueError(f"{where}: expected {labels!r}, a list of {len(data)} integers, got {got}")
    return data.reshape(-1, 3, 32, 32), np.array(y, dtype=np.int64)
