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
    """The dataset in an npz file.

    x: [N, H, W], [N, H, W, C], [N, C, H, W] or [N, D]; y: [N], whole numbers or strings. An optional
    array `classes` of strings names the labels 0, 1, ... (an argument `classes` goes before it).
    Object arrays are refused: nothing in the file is executed.
    Raises FileNotFoundError, and ValueError that names the file and the key.
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
