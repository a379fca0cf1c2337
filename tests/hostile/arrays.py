"""Files of arrays: npz, idx, and the mat files of SVHN, with headers that lie."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io

from tests.hostile.archives import bomb_zip, idx_folder
from tests.hostile.kind import BOMB, EITHER, READ, Kind, write


def npy(descr: str = "'|u1'", sizes: str = "(8, 2, 2)", data: bytes = bytes(32), *, order: str = "False") -> bytes:
    """A npy file whose header has these words."""
    return with_header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {sizes}, }}\n".encode(), data)


def with_header(header: bytes, data: bytes = b"", *, version: int = 1, length: int | None = None) -> bytes:
    count = struct.pack("<H" if version == 1 else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + count + header + data


def npz(at: Path, method: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    """A npz file of two parts; some members have another content."""
    labels = npy("'<i8'", "(8,)", np.arange(8).tobytes())
    images = npy(data=bytes(range(32)))
    whole = {"x_train": images, "y_train": labels, "x_test": npy(data=bytes(range(32, 64))), "y_test": labels}
    with zipfile.ZipFile(at / "x.npz", "w", method) as archive:
        for name, content in (whole | members).items():
            archive.writestr(f"{name}.npy", content)


ARRAYS: dict[str, bytes] = {
    "objects": npy("'|O'", "(8,)", b"\x80\x04cos\nsystem\n(X\x08\0\0\0touch xxtR."),
    "objects in a field": npy("[('a', '|O')]", "(8,)"),
    "fields": npy("[('a', '|u1'), ('b', '<f8')]", "(8,)", bytes(72)),
    "header that is code": npy("__import__('os').system('echo x > executed')"),
    "header that calls": with_header(b"open('executed', 'w')\n"),
    "header that is too deep": with_header(b"(" * 5000 + b")" * 5000 + b"\n"),
    "header of a megabyte": with_header(
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"1," * 500_000 + b")}\n", version=2
    ),
    "header of 1 GiB, version 3": with_header(b"{}\n", version=3, length=2**30),
    "header of 4 GiB, version 2": with_header(b"{}\n", version=2, length=2**32 - 1),
    "header of no keys": with_header(b"{}\n"),
    "header of other keys": with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), 'x': 1}\n"),
    "version 9": with_header(b"{}\n", version=9),
    "shape of 10**30": npy(sizes=f"({10**30},)"),
    "shape of 10**10": npy(sizes=f"({10**10},)"),
    "shape of a bomb": npy(sizes=f"({BOMB},)"),
    "shape of a negative number": npy(sizes="(-8, 2, 2)"),
    "shape of two negative numbers": npy(sizes="(-8, -2, 2)"),
    "shape of 0 by 2**62": npy(sizes=f"(0, {2**62})"),
    "shape of 70 axes": npy(sizes="(" + "1," * 70 + ")"),
    "shape of fractions": npy(sizes="(8.0, 2, 2)"),
    "shape of switches": npy(sizes="(True, 2, 2)"),
    "shape of text": npy(sizes="'8'"),
    "shape that overflows": npy(sizes=f"({2**32}, {2**32}, 4)"),
    "dtype of 2 GiB an element": npy("'|S2147483647'", "(8,)"),
    "dtype of no bytes": npy("'|S0'", f"({10**12},)", b""),
    "dtype of no bytes, 10**30 times": npy("'|V0'", f"({10**30},)", b""),
    "dtype that is a number": npy("12"),
    "dtype of a sub-array": npy("('|u1', (1000000000,))", "(8,)"),
    "dtype of times": npy("'<M8[us]'", "(8, 2, 2)", bytes(256)),
    "complex numbers": npy("'<c16'", "(8, 2, 2)", bytes(512)),
    "half the bytes": npy(data=bytes(16)),
    "no bytes": npy(data=b""),
    "text": b"x_train",
    "empty": b"",
}
LABELS: dict[str, bytes] = {
    "labels that are NaN": npy("'<f8'", "(8,)", np.full(8, np.nan).tobytes()),
    "labels of 2**63": npy("'<u8'", "(8,)", np.full(8, 2**63, np.uint64).tobytes()),
    "labels of letters": npy("'<U1'", "(8,)", ("\x1b" * 8).encode("utf-32-le")),
    "labels of letters that are none": npy("'<U1'", "(8,)", b"\xff" * 32),
    "labels of two axes": npy("'<i8'", "(8, 2)", bytes(128)),
    "labels of no image": npy("'<i8'", "(0,)", b""),
}


def duplicate(at: Path) -> None:
    npz(at)
    with zipfile.ZipFile(at / "x.npz", "a") as archive:
        archive.writestr("x_train.npy", npy("'|O'", "(8,)", b"cos\nsystem\n(S'echo x > executed'\ntR."))


def npz_bomb(at: Path) -> None:
    with zipfile.ZipFile(at / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key in ("x_train", "x_test"):
            with archive.open(f"{key}.npy", "w") as member:
                member.write(npy(sizes=f"({BOMB // 64}, 8, 8)", data=b""))
                for _ in range(BOMB >> 20):
                    member.write(bytes(1 << 20))
        for key in ("y_train", "y_test"):
            archive.writestr(f"{key}.npy", npy("'|u1'", f"({BOMB // 64},)", bytes(BOMB // 64)))


NPZ: dict[str, tuple[Callable[[Path], object], str]] = {
    "whole": (npz, READ),
    "fortran order": (partial(npz, x_train=npy(order="True", data=bytes(range(32)))), READ),
    "fortran order that is a number": (partial(npz, x_train=npy(order="7")), EITHER),
    "bytes behind the array": (partial(npz, x_train=npy(data=bytes(range(32)) * 9)), EITHER),
    "classes that are objects": (partial(npz, classes=npy("'|O'", "(8,)", b"cos\nsystem\n(S'x'\ntR.")), "refused"),
    "classes of 10**10": (partial(npz, classes=npy("'<U1'", f"({10**10},)", b"")), "refused"),
    "same member twice": (duplicate, "refused"),
    "bomb": (npz_bomb, "refused"),
    "bomb that is no array": (lambda at: bomb_zip(at / "x.npz"), "refused"),
    "a single array": (lambda at: write(at / "x.npz", npy()), "refused"),
    "a single array of objects": (
        lambda at: write(at / "x.npz", npy("'|O'", "(1,)", b"cos\nsystem\n(S'x'\ntR.")),
        "refused",
    ),
    "a single array of 2**60": (lambda at: write(at / "x.npz", npy(sizes=f"({2**60},)")), "refused"),
    "a pickle": (lambda at: write(at / "x.npz", b"\x80\x04cos\nsystem\n(X\x12\0\0\0echo x > executed  tR."), "refused"),
    "text": (lambda at: write(at / "x.npz", b"text"), "refused"),
    "empty": (lambda at: write(at / "x.npz", b""), "refused"),
    "pipe": (lambda at: os.mkfifo(at / "x.npz"), "refused"),
    "device": (lambda at: (at / "x.npz").symlink_to("/dev/zero"), "refused"),
}


def idx(kind: int, *sizes: int, data: bytes = b"") -> bytes:
    return bytes([0, 0, kind, len(sizes)]) + b"".join(struct.pack(">I", size) for size in sizes) + data


IDX: dict[str, bytes] = {
    "sizes of 2**32 - 1": idx(8, *[2**32 - 1] * 3),
    "size of 2**31": idx(8, 2**31, 1, 1),
    "size of 0 by 2**32 - 1": idx(8, 0, 2**32 - 1, 2**32 - 1),
    "no size": idx(8),
    "255 sizes": idx(8, *[1] * 255, data=b"1"),
    "255 sizes of 2**32 - 1": idx(8, *[2**32 - 1] * 255),
    "255 sizes that are missing": b"\0\0\x08\xff",
    "unknown type": idx(0x0A, 2, 2, 2, data=bytes(8)),
    "wrong magic": b"\1\0\x08\3" + bytes(20),
    "byte order of the other kind": b"\3\x08\0\0" + bytes(20),
    "one byte less": idx(8, 2, 2, 2, data=bytes(7)),
    "one byte more": idx(8, 2, 2, 2, data=bytes(9)),
    "two axes": idx(8, 2, 4, data=bytes(8)),
    "pixels that are NaN": idx(0x0E, 4, 1, 1, data=struct.pack(">dddd", float("nan"), float("inf"), 1, 2)),
    "empty": b"",
}
IDX_LABELS: dict[str, bytes] = {
    "labels that are NaN": idx(0x0D, 4, data=struct.pack(">ffff", float("nan"), 1, 1, 1)),
    "labels of 1e300": idx(0x0E, 4, data=struct.pack(">dddd", 1e300, -1e300, 0, 0)),
    "labels of another number": idx(8, 7, data=b"abcdefg"),
}

SQUARES = idx(8, 4, 2, 2, data=bytes(range(16)))


def bad_labels(at: Path, labels: bytes) -> None:
    idx_folder(at, SQUARES, "")
    write(at / "train-labels-idx1-ubyte", labels)


def endless(at: Path, make: Callable[[Path], object]) -> None:
    """A folder of idx files; the images are no regular file."""
    idx_folder(at, SQUARES, "")
    (at / "train-images-idx3-ubyte").unlink()
    make(at / "train-images-idx3-ubyte")


def huge(path: Path) -> None:
    """A file that is one hole of 2 GiB; on the disk it takes no room."""
    with path.open("wb") as file:
        file.write(idx(8, 2**31 - 16, 1, 1))
        file.truncate(2**31)


IDX_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "file of 2 GiB": huge,
}


def mat_bytes(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, arrays)
    return file.getvalue()


def mat_array(kind: int, sizes: tuple[int, ...], data: bytes, *, claimed: int | None = None, flags: int = 0) -> bytes:
    """A mat file of version 5 with one array `X`, whose parts claim what they like."""

    def element(code: int, content: bytes, length: int | None = None) -> bytes:
        head = struct.pack("<II", code, len(content) if length is None else length)
        return head + content + bytes(-len(content) % 8)

    body = element(6, struct.pack("<II", kind | flags, 0)) + element(5, struct.pack(f"<{len(sizes)}i", *sizes))
    body += element(1, b"X") + element(2, data, claimed)
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 14, len(body)) + body


X, Y = np.zeros((4, 4, 3, 5), np.uint8), np.ones((5, 1), np.uint8)
MATS: dict[str, bytes] = {
    "sizes of 2**31 - 1": mat_array(9, (2**31 - 1,) * 4, b""),
    "negative sizes": mat_array(9, (-4, 4, 3, 5), bytes(240)),
    "bytes of 4 GiB": mat_array(9, (4, 4, 3, 5), b"", claimed=2**32 - 8),
    "sparse": mat_array(5, (2**30, 2**30), b""),
    "objects": mat_array(17, (1, 1), bytes(64)),
    "cells 10**8": mat_array(1, (10**8, 1), b""),
    "unknown class": mat_array(99, (4, 4, 3, 5), bytes(240)),
    "bomb": mat_bytes()[:128]
    + (lambda packed: struct.pack("<II", 15, len(packed)) + packed)(
        zlib.compress(mat_array(9, (BOMB // 16, 4, 4, 1), bytes(BOMB))[128:], 1)
    ),
    "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + b"\x89HDF\r\n\x1a\n" + bytes(500),
    "version 4 of 2**31 rows": struct.pack("<IiiiI", 0, 2**31 - 1, 2**31 - 1, 0, 2) + b"X\0",
    "text": b"text" * 100,
    "empty": b"",
    "cut short": mat_bytes(X=X, y=Y)[:-100],
    "cells": mat_bytes(X=np.array([[1], ["x"]], dtype=object), y=Y),
    "struct": mat_bytes(X={"a": 1}, y=Y),  # type: ignore[arg-type]
    "labels that are NaN": mat_bytes(X=X, y=np.full((5, 1), np.nan)),
    "labels beyond the classes": mat_bytes(X=X, y=np.full((5, 1), 99)),
    "labels of letters": mat_bytes(X=X, y=np.array(["a"] * 5)),
    "no labels": mat_bytes(X=X),
}


def mats(at: Path, train: bytes) -> None:
    write(at / "train_32x32.mat", train)
    write(at / "test_32x32.mat", mat_bytes(X=X, y=Y))


def mat_pipe(at: Path) -> None:
    mats(at, b"")
    (at / "train_32x32.mat").unlink()
    os.mkfifo(at / "train_32x32.mat")


def kinds() -> Iterator[Kind]:
    """All kinds of this file."""
    for name, (build, outcome) in NPZ.items():
        yield Kind(f"npz/{name}", "data", build, "x.npz", outcome)
    for name, content in ARRAYS.items():
        yield Kind(f"npz/{name} as x_train", "data", partial(npz, x_train=content), "x.npz")
    for name, content in LABELS.items():
        yield Kind(
            f"npz/{name}",
            "data",
            partial(npz, y_train=content),
            "x.npz",
            EITHER if name in ("labels of letters", "labels of 2**63") else "refused",
        )
    yield Kind("idx/whole", "data", partial(idx_folder, images=SQUARES, suffix=""), outcome=READ)
    for name, content in IDX.items():
        yield Kind(
            f"idx/{name}",
            "data",
            partial(idx_folder, images=content, suffix=""),
            outcome=EITHER if "pixels" in name else "refused",
        )
    for name, content in IDX_LABELS.items():
        yield Kind(f"idx/{name}", "data", partial(bad_labels, labels=content))
    for name, make in IDX_FILES.items():
        yield Kind(f"idx/{name}", "data", partial(endless, make=make))
    yield Kind("mat/whole", "data", partial(mats, train=mat_bytes(X=X, y=Y)), outcome=READ)
    for name, content in MATS.items():
        yield Kind(f"mat/{name}", "data", partial(mats, train=content))
    yield Kind("mat/pipe", "data", mat_pipe)
