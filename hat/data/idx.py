"""Reader: idx files (MNIST and its relatives), plain or gzip."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NAME = re.compile(r"(train|t10k|test)[-_.](images|labels)[-_.]idx\d-ubyte(\.gz)?$")


def unpacked(path: Path) -> bytes:
    """The bytes of a file, unpacked if their beginning says gzip; the name of the file does not matter.

    Raises:
        ValueError: the gzip stream is truncated or damaged; the message names the file.
    """
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, got a truncated or damaged one ({error})") from error


def read_idx(path: str | Path, md5: str | None = None) -> np.ndarray:
    """Read the array in one idx file. The header of the file gives its shape and number type.

    Args:
        path: the file, plain or gzip.
        md5: the checksum of the unpacked bytes, if it is known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, is no idx file, or has another checksum; the message names the file.
    """
    path = Path(path)
    raw = unpacked(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES or raw[3] == 0:
        raise ValueError(f"{path}: expected an idx file (magic 00 00, type, dimensions), got {raw[:4].hex(' ')!r}")
    start = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4))
    dtype = np.dtype(_TYPES[raw[2]])
    expected = start + dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        raise ValueError(f"{path}: expected {expected} bytes for shape {shape}, got {len(raw)}")
    if md5 is not None and (got := hashlib.md5(raw).hexdigest()) != md5:
        raise ValueError(f"{path}: expected unpacked bytes with md5 {md5}, got md5 {got}: another file")
    array = np.frombuffer(raw, dtype, offset=start).reshape(shape)
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

    Raises:
        FileNotFoundError: a file is missing; the message names the file.
        ValueError: a file is damaged or does not fit the others; the message names the file.
    """
    folder = Path(folder)
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
            array = read_idx(path, (md5 or {}).get(path.name.removesuffix(".gz")))
            if array.ndim != axes:
                raise ValueError(f"{path}: expected {axes} dimensions, got shape {array.shape}")
            arrays.append(array)
        if len(arrays[0]) != len(arrays[1]):
            raise ValueError(f"{paths[1]}: expected {len(arrays[0])} labels, one an image, got {len(arrays[1])}")
        parts.append((arrays[0], arrays[1]))
    return make_dataset(folder, name, parts[0], parts[1] if len(parts) == 2 else None, classes)
