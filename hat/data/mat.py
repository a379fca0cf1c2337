"""Reader: the `.mat` files of SVHN (cropped digits).

A file of MATLAB 5 is a header of 128 bytes and elements. An element is a tag (type, number of bytes) and its bytes,
filled up to a multiple of 8. A matrix is an element of elements: flags, sizes, name, numbers. It may be packed by zlib.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset
from hat.data.limits import MAX_GIB, PIECE, Budget, TooLargeError, Unpacking, fill, opened, read_at_most

FILES = ("train_32x32.mat", "test_32x32.mat")
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _PACKED = 14, 15
_NUMBERS = range(6, 16)  # the classes of arrays of numbers; others are texts, cells, structs, sparse arrays


class _DamagedError(Exception):
    """The bytes are no MATLAB 5 file."""


def read_mat(path: str | Path, budget: Budget | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read one file with `X` [H, W, 3, N] and `y` [N, 1].

    Args:
        path: the file.
        budget: counts the arrays; by default 2 GiB.

    Returns:
        (images uint8 [N, H, W, 3], labels int64 [N]). The label 10 of the file, which stands for the digit 0, is 0.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, too large or holds other arrays; the message names the file.
    """
    path, budget = Path(path), budget or Budget()
    with opened(path, budget) as file:
        try:
            content = dict(_matrices(file, path, budget))
        except TooLargeError:
            raise
        except Exception as error:  # damaged bytes raise errors of many classes
            raise ValueError(f"{path}: expected a whole .mat file of MATLAB 5, got a damaged or other one") from error
    x, y = content.get("X"), content.get("y")
    if x is None or y is None or x.ndim != 4 or x.dtype != np.uint8 or y.size != x.shape[3]:
        got = {key: (value.dtype.name, value.shape) for key, value in content.items()}
        raise ValueError(f"{path}: expected X uint8 (H, W, C, N) and y (N, 1), got {got}")
    if not x.size:
        raise ValueError(f"{path}: expected images in X, got none of its shape {x.shape}")
    budget.need(path, 32 * y.size)  # the labels as int64, and masks
    if not bool(((y >= 0) & (y <= 10)).all()):
        raise ValueError(f"{path}: expected labels in 0..10, got others")
    labels = y.reshape(-1).astype(np.int64)
    return x.transpose(3, 0, 1, 2), np.where(labels == 10, 0, labels)


def _matrices(file: Any, path: Path, budget: Budget) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays X and y of a file by their names."""
    header = file.read(128)
    order = {b"IM": "<", b"MI": ">"}[header[126:128]]
    size = path.stat().st_size
    while (start := file.tell()) < size:
        kind, count = np.frombuffer(file.read(8), order + "u4").tolist()
        if start + 8 + count > size:
            raise _DamagedError
        stream = file
        if kind == _PACKED:
            stream = Unpacking(_Inflated(file, count), path, budget)
            kind, _ = np.frombuffer(read_at_most(stream, 8), order + "u4").tolist()
        if kind != _MATRIX:
            raise _DamagedError
        yield from _matrix(stream, order, path, budget)
        file.seek(start + 8 + count)


def _matrix(stream: Any, order: str, path: Path, budget: Budget) -> Iterator[tuple[str, np.ndarray]]:
    """One array by its name, if it is X or y. It has the number type that it is stored in, as with scipy."""
    flags = _small(stream, order)
    sizes, name = np.frombuffer(_small(stream, order), order + "i4").tolist(), _small(stream, order)
    code, is_complex = flags[0 if order == "<" else 3], flags[1 if order == "<" else 2] & 8
    if name not in (b"X", b"y"):
        return
    where = f"{path}: {name.decode()}"
    kind, count, inside = _tag(stream, order)
    dtype = np.dtype(order + _TYPES[kind])
    if code not in _NUMBERS or is_complex or min(sizes) < 0 or count != dtype.itemsize * math.prod(sizes):
        raise _DamagedError
    budget.hold(where, count)
    array = np.empty(sizes[::-1], dtype)
    if inside is None and fill(stream, array) < count:
        raise _DamagedError
    if inside is not None:
        array.reshape(-1)[:] = np.frombuffer(inside[:count], dtype)
    if isinstance(stream, Unpacking):  # the checksum is at the end, behind up to 7 bytes that fill up
        read_at_most(stream, 16)
    yield name.decode(), array.T.astype(dtype.newbyteorder("="), copy=False)


def _tag(stream: Any, order: str) -> tuple[int, int, bytes | None]:
    """(type, number of bytes, the bytes if there are at most 4: then they lie in the tag itself)."""
    tag = read_at_most(stream, 8)
    kind, count = np.frombuffer(tag, order + "u4").tolist()
    return (kind, count, None) if kind < 1 << 16 else (kind & 0xFFFF, kind >> 16, tag[4:])


def _small(stream: Any, order: str) -> bytes:
    """The bytes of an element that is short: flags, sizes, a name."""
    _, count, inside = _tag(stream, order)
    if count > (4 if inside is not None else 256):
        raise _DamagedError
    return inside[:count] if inside is not None else read_at_most(stream, -(-count // 8) * 8)[:count]


class _Inflated:
    """The bytes that `count` bytes of a file unpack to."""

    def __init__(self, file: Any, count: int) -> None:
        self._file, self._left, self._unpacker = file, count, zlib.decompressobj()

    def read(self, size: int) -> bytes:
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail
            if not packed:
                packed = self._file.read(min(self._left, PIECE))
                self._left -= len(packed)
            data = self._unpacker.decompress(packed, size)
            if data or not packed:
                return data
        return b""


def read_svhn(folder: str | Path, name: str = "svhn", *, max_gib: float = MAX_GIB) -> Dataset:
    """Read a folder with `train_32x32.mat` and `test_32x32.mat`. Errors as in `read_mat`."""
    budget = Budget(max_gib)
    parts = [read_mat(Path(folder) / file, budget) for file in FILES]
    return make_dataset(Path(folder), name, parts, [str(digit) for digit in range(10)], budget)
