"""Keep decoded image archives in the user's cache: decoding 60 000 JPEGs takes longer than training on them."""

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
from hat.data.limits import Budget
from hat.data.location import cache_folder
from hat.data.npz import KEYS, read_arrays

VERSION = 1  # raise this number when a change of the code makes an archive decode to other images


def cached(path: Path, name: str, options: str, decode: Callable[[], Dataset], max_gib: float) -> Dataset:
    """Decode an archive, or read the dataset that an earlier call decoded.

    The cache file is found by the path and `options`. It is valid as long as the archive has the same size and time of
    change. It is written to a temporary file and renamed. A damaged or outdated cache file is written anew.

    Args:
        path: the archive.
        name: of the dataset.
        options: whatever else decides how the archive is decoded.
        decode: decodes the archive.
        max_gib: the most that a cache file may hold, in GiB; a larger one is not read.

    Warns:
        UserWarning: the cache file could not be written.
    """
    resolved = path.resolve()
    state = resolved.stat()
    stamp = f"{VERSION} {resolved} {options} {state.st_size} {state.st_mtime_ns}"
    key = hashlib.blake2b(f"{resolved} {options}".encode(), digest_size=10).hexdigest()
    file = cache_folder() / "decoded" / f"{key}.npz"
    stored = _read(file, name, stamp, max_gib)
    if stored is not None:
        return stored
    dataset = decode()
    try:
        _write(file, dataset, stamp)
    except OSError as error:
        warnings.warn(f"{file}: the decoded {path.name} could not be kept ({error})", stacklevel=2)
    return dataset


def _read(file: Path, name: str, stamp: str, max_gib: float) -> Dataset | None:
    try:
        content = read_arrays(file, (*KEYS, "classes", "stamp"), Budget(max_gib), needed=(*KEYS, "classes", "stamp"))
        if str(content["stamp"]) != stamp:
            return None
        classes = tuple(str(c) for c in content["classes"])
        return Dataset(name, classes, *(torch.from_numpy(content[key]) for key in KEYS))
    except Exception:  # the file is missing, truncated, of another kind or too large: it is written anew
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
