"""Reader: idx files (MNIST and its relatives), plain or gzip."""

from __future__ import annotations

import hashlib
import lzma
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset
from hat.data.limits import MAX_GIB, Budget, fill, opened

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMENSIONS = 8
MOST_GZIP = 1100  # gzip packs zeros to 1/1032 of their size; xz to less, but nobody has idx files in xz
_NAME = re.compile(r"(train|t10k|test)[-_.](images|labels)[-_.]idx\d-ubyte(\.gz)?$")


def read_idx(path: str | Path, md5: str | None = None, budget: Budget | None = None) -> np.ndarray:
    """Read the array in one idx file. The header of the file gives its shape and number type.

    Args:
        path: the file, plain or compressed.
        md5: the checksum of the unpacked bytes, if it is known.
        budget: counts the array; by default 2 GiB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, is no idx file, has another checksum, or is larger than the budget allows;
            the message names the file.
    """
    path, budget = Path(path), budget or Budget()
    with opened(path, budget, unpack=True) as stream:
        try:
            return _read(path, stream, md5, budget)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise ValueError(f"{path}: expected a whole gzip file, got a truncated or damaged one") from error


def _read(path: Path, stream: Any, md5: str | None, budget: Budget) -> np.ndarray:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES or start[3] == 0:
        raise ValueError(f"{path}: expected an idx file (magic 00 00, type, dimensions), got {start.hex(' ')!r}")
    sizes = stream.read(4 * start[3])
    shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{path}: expected at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    dtype = np.dtype(_TYPES[start[2]])
    count = dtype.itemsize * math.prod(shape)
    expected = f"{path}: expected {len(start) + 4 * start[3] + count} bytes for shape {shape}"
    on_disk = path.stat().st_size
    if len(sizes) < 4 * start[3] or count > on_disk * (1 if stream.seekable() else MOST_GZIP):
        raise ValueError(f"{expected}, got {'' if stream.seekable() else 'a compressed file of '}{on_disk}")
    budget.hold(path, count)
    array = np.empty(shape, dtype)
    got = fill(stream, array)
    if got < count or stream.read(1):
        raise ValueError(f"{expected}, got {on_disk if stream.seekable() else got if got < count else 'more'}")
    if md5 is not None:
        digest = hashlib.md5(start + sizes)
        digest.update(array.data)
        if digest.hexdigest() != md5:
            raise ValueError(
                f"{path}: expected unpacked bytes with md5 {md5}, got md5 {digest.hexdigest()}: another file"
            )
    return array.astype(dtype.newbyteorder("="), copy=False)


def idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """The idx files of a folder by ("train" | "test", "images" | "labels"). A plain file is preferred to a gzip file.

    Raises:
        ValueError: two files of different names stand for the same.
    """
    files: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir(), key=lambda p: (p.suffix == ".gz", p.name)):
        if match := _NAME.search(path.name):
            key = ("train" if match[1] == "train" else "test", match[2])
            other = files.setdefault(key, path)
            if other is not path and other.name != path.name.removesuffix(".gz"):
                raise ValueError(f"{folder}: expected one file of {key[0]} {key[1]}, got {other.name} and {path.name}")
    return files


def read_idx_folder(
    folder: str | Path,
    name: str,
    *,
    classes: Sequence[str] | None = None,
    both_parts: bool = False,
    md5: Mapping[str, str] | None = None,
    max_gib: float = MAX_GIB,
) -> Dataset:
    """Read a folder of idx files: images and labels of a training and a test part.

    Args:
        folder: with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
            `t10k-labels-idx1-ubyte`, each plain or `.gz`.
        name: of the dataset.
        classes: the name of each label. None: the distinct labels are the names.
        both_parts: whether both parts must be there. If not, a single part is cut in two, by distinct images and with
            a fixed seed.
        md5: checksums of the unpacked bytes by file name without `.gz`.
        max_gib: the most that the files may hold, in GiB.

    Raises:
        FileNotFoundError: a file is missing; the message names the file.
        ValueError: a file is damaged, too large or does not fit the others; the message names the file.
    """
    folder, budget = Path(folder), Budget(max_gib)
    files = idx_files(folder)
    parts = []
    for part, stem in (("train", "train"), ("test", "t10k")):
        paths = [files.get((part, kind)) for kind in ("images", "labels")]
        if not both_parts and paths == [None, None] and files:
            continue
        arrays = []
        for path, kind, axes in zip(paths, ("images-idx3", "labels-idx1"), (3, 1), strict=True):
            if path is None:
                raise FileNotFoundError(f"{folder / f'{stem}-{kind}-ubyte'}: no such file, nor with .gz")
            array = read_idx(path, (md5 or {}).get(path.name.removesuffix(".gz")), budget)
            if array.ndim != axes:
                raise ValueError(f"{path}: expected {axes} dimensions, got shape {array.shape}")
            arrays.append(array)
        if len(arrays[0]) != len(arrays[1]):
            raise ValueError(f"{paths[1]}: expected {len(arrays[0])} labels, one an image, got {len(arrays[1])}")
        parts.append((arrays[0], arrays[1]))
        del arrays, array
    return make_dataset(folder, name, parts, classes, budget)
