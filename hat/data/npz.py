"""Reader: one npz file with x_train, y_train, x_test, y_test."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset

KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: str | Path, name: str, *, classes: Sequence[str] | None = None) -> Dataset:
    """Read a dataset from an npz file.

    The arrays `x_train` and `x_test` are [N, H, W], [N, H, W, C], [N, C, H, W] or [N, D]. The arrays `y_train` and
    `y_test` are [N], whole numbers or strings. An array `classes` of strings may name the labels 0, 1, ... Object
    arrays are refused, so nothing in the file is executed.

    Args:
        path: the file.
        name: of the dataset.
        classes: the name of each label; replaces the array `classes` of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or an array is missing or wrong; the message names the file and the array.
    """
    path = Path(path)
    expected = f"{path}: expected an npz file with {', '.join(KEYS)}"
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with loaded as file:
            missing = [key for key in KEYS if key not in file.files]
            if missing:
                raise ValueError(f"no {', '.join(missing)} among {', '.join(file.files) or 'no keys'}")
            x_train, y_train, x_test, y_test = (_member(file, key) for key in KEYS)
            if classes is None and "classes" in file.files:
                classes = [str(c) for c in _member(file, "classes")]
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{expected}; got {error}") from error
    return make_dataset(path, name, (x_train, y_train), (x_test, y_test), classes)


def _member(file: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        array: np.ndarray = file[key]
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    return array
