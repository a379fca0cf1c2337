"""Decoded image archives are kept in the user's cache: decoding 60 000 JPEGs takes longer than training on them."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hat.data.dataset import Dataset
from hat.data.location import cache_folder
from hat.data.npz import KEYS

VERSION = 1  # raise it when the same archive would decode to something else


def cached(path: Path, name: str, options: str, decode: Callable[[], Dataset]) -> Dataset:
    """`decode()`, or what it gave the last time for this archive.

    Keyed by the path and `options`; valid while the archive's size and time of change are the same.
    Written to a temporary file and renamed. A cache that is damaged or out of date is rebuilt, and one
    that cannot be written is a warning.
    """
    resolved = path.resolve()
    state = resolved.stat()
    stamp = f"{VERSION} {resolved} {options} {state.st_size} {state.st_mtime_ns}"
    key = hashlib.blake2b(f"{resolved} {options}".encode(), digest_size=10).hexdigest()
    file = cache_folder() / "decoded" / f"{key}.npz"
    stored = _read(file, name, stamp)
    if stored is not None:
        return stored
    dataset = decode()
    try:
        _write(file, dataset, stamp)
    except OSError as error:
        warnings.warn(f"{file}: the decoded {path.name} could not be kept ({error})", stacklevel=2)
    return dataset


def _read(file: Path, name: str, stamp: str) -> Dataset | None:
    try:
        with np.load(file, allow_pickle=False) as content:
            if str(content["stamp"]) != stamp:
                return None
            classes = tuple(str(c) for c in content["classes"])
            return Dataset(name, classes, *(torch.from_numpy(content[key]) for key in KEYS))
    except Exception:  # absent, truncated, foreign: whatever it is, it is rebuilt
        return None


def _write(file: Path, dataset: Dataset, stamp: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(
                stream,
                **{key: getattr(dataset, key).numpy() for key in KEYS},
                classes=np.array(dataset.classes),
                stamp=np.array(stamp),
            )
        os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)
