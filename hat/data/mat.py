"""Reader: the `.mat` files of SVHN (cropped digits)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset
from hat.data.optional import optional

FILES = ("train_32x32.mat", "test_32x32.mat")


def read_mat(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one file with `X` [H, W, 3, N] and `y` [N, 1].

    Returns:
        (images uint8 [N, H, W, 3], labels int64 [N]). The label 10 of the file, which stands for the digit 0, is 0.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: scipy is not installed.
        ValueError: the file is damaged or holds other arrays; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    scipy_io = optional("scipy.io", f"{path.name} (a .mat file)")
    try:
        content = scipy_io.loadmat(path, variable_names=("X", "y"))
    except Exception as error:  # damaged bytes make scipy raise ValueError, TypeError, zlib.error and others
        raise ValueError(f"{path}: expected a whole .mat file, got a damaged one ({error})") from error
    x, y = content.get("X"), content.get("y")
    if x is None or y is None or x.ndim != 4 or x.dtype != np.uint8 or y.size != x.shape[3]:
        got = {key: (value.dtype.name, value.shape) for key, value in (("X", x), ("y", y)) if value is not None}
        raise ValueError(f"{path}: expected X uint8 (H, W, C, N) and y (N, 1), got {got}")
    labels = y.reshape(-1).astype(np.int64)
    return np.ascontiguousarray(x.transpose(3, 0, 1, 2)), np.where(labels == 10, 0, labels)


def read_svhn(folder: str | Path, name: str = "svhn") -> Dataset:
    """Read a folder with `train_32x32.mat` and `test_32x32.mat`. Errors as in `read_mat`."""
    train, test = (read_mat(Path(folder) / file) for file in FILES)
    return make_dataset(Path(folder), name, train, test, [str(digit) for digit in range(10)])
