"""Reader: one npz file with x_train, y_train, x_test, y_test."""

from __future__ import annotations

import ast
import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hat.data.archive import zip_file, zip_member
from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset
from hat.data.limits import MAX_GIB, Budget, RefusedError, Unpacking, fill, opened
from hat.text import printable

KEYS = ("x_train", "y_train", "x_test", "y_test")
NAME = 100  # bytes that Python needs for a name of a class in a list
MAX_DIMENSIONS = 8
MAX_HEADER = 10_000  # bytes, as in numpy
_PLAIN = re.compile(r"[<>|=]?([biuf]\d{1,2}|U[1-9]\d{0,6})")


def read_npz(path: str | Path, name: str, *, classes: Sequence[str] | None = None, max_gib: float = MAX_GIB) -> Dataset:
    """Read a dataset from an npz file.

    The arrays `x_train` and `x_test` are [N, H, W], [N, H, W, C], [N, C, H, W] or [N, D]. The arrays `y_train` and
    `y_test` are [N], whole numbers or strings. An array `classes` of strings may name the labels 0, 1, ... Object
    arrays are refused, so nothing in the file is executed.

    Args:
        path: the file.
        name: of the dataset.
        classes: the name of each label; replaces the array `classes` of the file.
        max_gib: the most that the arrays may hold, in GiB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or too large, or an array is missing or wrong; the message names the file and
            the array.
    """
    path, budget = Path(path), Budget(max_gib)
    keys = (*KEYS, "classes") if classes is None else KEYS
    content = read_arrays(path, keys, budget, needed=KEYS)
    if "classes" in content:
        budget.need(path, NAME * content["classes"].size)
        classes = content.pop("classes").reshape(-1).tolist()
    parts = [(content.pop(f"x_{part}"), content.pop(f"y_{part}")) for part in ("train", "test")]
    return make_dataset(path, name, parts, classes, budget)


def read_arrays(path: Path, keys: Sequence[str], budget: Budget, *, needed: Sequence[str]) -> dict[str, np.ndarray]:
    """Read those arrays of an npz file whose names are among `keys`.

    Args:
        path: the file.
        keys: the names.
        budget: counts the arrays.
        needed: the names that must be there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or too large, or an array is missing or has other elements than numbers and
            strings.
    """
    with opened(path, budget) as file:
        try:
            if file.read(6) == b"\x93NUMPY":
                raise _WrongError("got a single array")
            file.seek(0)
            with zip_file(file, path, budget) as archive:
                names = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                if missing := [key for key in needed if key not in names]:
                    there = ", ".join(printable(name) for name in list(names)[:10]) or "no arrays"
                    raise _WrongError(f"got no {', '.join(missing)} among {there}")
                found = {key: names[key] for key in keys if key in names}
                return {key: _member(archive, info, path, key, budget) for key, info in found.items()}
        except RefusedError:
            raise
        except _WrongError as error:
            raise ValueError(f"{path}: expected an npz file with {', '.join(needed)}; {error}") from error
        except Exception as error:  # a damaged zip raises errors of many classes
            expected = f"{path}: expected an npz file with {', '.join(needed)}"
            raise ValueError(f"{expected}; got a damaged or truncated one") from error


class _WrongError(Exception):
    """The file has other arrays than the reader wants. The message says which."""


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, key: str, budget: Budget) -> np.ndarray:
    with zip_member(archive, info, f"{path}: {key}", budget) as stream:
        dtype, shape, order = _header(stream, key)
        count = dtype.itemsize * math.prod(shape)
        if count > info.file_size:
            raise _WrongError(f"got {info.file_size} bytes of {key}, too few for its shape {shape}")
        budget.hold(f"{path}: {key}", count)
        array = np.empty(shape[::-1] if order == "F" else shape, dtype)
        if fill(stream, array) < count or stream.read(1):
            raise _WrongError(f"got a truncated {key}")
    if dtype.kind == "U" and array.size and array.reshape(-1).view(dtype.byteorder + "u4").max() > 0x10FFFF:
        raise _WrongError(f"got strings that are no text in {key}")
    return array.T if order == "F" else array


def _header(stream: Unpacking, key: str) -> tuple[np.dtype, tuple[int, ...], str]:
    """(dtype, shape, order) of an array in the format of numpy: a magic, a length and a dict as text."""
    start = stream.read(8)
    width = {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4, b"\x93NUMPY\3\0": 4}.get(start)
    if width is None:
        raise _WrongError(f"got other bytes than an array in {key}")
    length = int.from_bytes(stream.read(width), "little")
    if length > MAX_HEADER:
        raise _WrongError(f"got a header of {length} bytes in {key}")
    text = re.sub(r"(\d)L\b", r"\1", stream.read(length).decode("latin1"))  # Python 2 wrote 3L for 3
    header = ast.literal_eval(text.strip())
    code, shape = header["descr"], header["shape"]
    if not isinstance(code, str) or not _PLAIN.fullmatch(code):
        kind = "objects" if isinstance(code, str) and "O" in code else "elements of another kind"
        raise _WrongError(f"{key}: expected numbers or strings, got {kind}")
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape) or len(shape) > MAX_DIMENSIONS:
        raise _WrongError(f"{key}: expected a shape of at most {MAX_DIMENSIONS} sizes, got another one")
    return np.dtype(code), shape, "F" if header["fortran_order"] is True else "C"
