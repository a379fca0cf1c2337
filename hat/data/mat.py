"""Reader: the cropped-digit `.mat` files of SVHN."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset
from hat.data.optional import optional

FILES = ("train_32x32.mat", "test_32x32.mat")


def read_mat(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, H, W, 3], labels int64 [N]) of one file with `X` [H, W, 3, N] and `y` [N, 1].

    Label 10 stands for the digit 0. Raises FileNotFoundError, ImportError without scipy, and ValueError
    that names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    scipy_io = optional("scipy.io", f"{path.name} (a .mat file)")
    try:
        content = scipy_io.loadmat(path, variable_names=("X", "y"))
    except Exception as error:  # scipy raises whatever the damaged bytes lead to: ValueError, TypeError, zlib.error
        raise ValueError(f"{path}: expected a whole .mat file, got a damaged one ({error})") from error
    x, y = content.get("X"), content.get("y")
    if x is None or y is None or x.ndim != 4 or x.dtype != np.uint8 or y.size != x.shape[3]:
        got = {key: (value.dtype.name, value.shape) for key, value in (("X", x), ("y", y)) if value is not None}
        raise ValueError(f"{path}: expected X uint8 (H, W, C, N) and y (N, 1), got {got}")
    labels = y.reshape(-1).astype(np.int64)
    return np.ascontiguousarray(x.transpose(3, 0, 1, 2)), np.where(labels == 10, 0, labels)


def read_svhn(folder: str | Path, name: str = "svhn") -> Dataset:
    """The dataset in a folder with `train_32x32.mat` and `test_32x32.mat`."""
    train, test = (read_mat(Path(folder) / file) for file in FILES)
    return make_dataset(Path(folder), name, train, test, [str(digit) for digit in range(10)])
