"""Batches of CIFAR-10 whose pickles forge arrays, call functions, or grow without end."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.kind import BOMB, EITHER, READ, REFUSED, Kind, write

MARK, TUPLE, REDUCE, BUILD, NONE, FALSE, EMPTY_DICT, EMPTY_LIST = b"(", b"t", b"R", b"b", b"N", b"\x89", b"}", b"]"
NDARRAY, DTYPE = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
RECONSTRUCT, FROMBUFFER = b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy._core.numeric\n_frombuffer\n"
POINTERS = b"C\x08AAAAAAAA"
"""Eight bytes that an array of objects takes for the address of an object."""
COMMAND = "echo x > executed"


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def raw(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def many(*parts: bytes) -> bytes:
    return MARK + b"".join(parts) + TUPLE


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + many(*arguments) + REDUCE


def shape(*sizes: int) -> bytes:
    return many(*map(number, sizes))


def dtype(name: str) -> bytes:
    return call(DTYPE, text(name), FALSE, b"\x88")


def dtype_state(name: str, *state: bytes) -> bytes:
    """A dtype that gets a state."""
    return dtype(name) + many(*state) + BUILD


def one_field(code: str, offset: int) -> bytes:
    """An array of eight bytes over pointers, whose dtype has the field `a` of another dtype at an offset."""
    fields = b"}" + text("a") + many(dtype(code), number(offset)) + b"s"
    structured = dtype_state("V8", number(3), text("|"), NONE, many(text("a")), fields, number(8), number(1), number(0))
    return call(FROMBUFFER, POINTERS, structured, shape(1), text("C"))


def array_state(*state: bytes) -> bytes:
    """An empty array that gets a state."""
    return call(RECONSTRUCT, NDARRAY, shape(0), b"C\x01b") + many(*state) + BUILD


def stored(name: str, data: bytes, *sizes: int) -> bytes:
    """An array as numpy pickles it."""
    return array_state(number(1), shape(*sizes), dtype(name), FALSE, data)


PIXELS = stored("u1", raw(bytes(2 * 3072)), 2, 3072)
LABELS = b"]" + MARK + number(0) + number(1) + b"e"


def laughs(start: bytes, pair: bytes, levels: int) -> bytes:
    """A value that holds the one before it twice, and so on."""
    return start + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + pair for n in range(levels))


DATA: dict[str, bytes] = {
    # arrays over memory that is not theirs
    "object array over bytes": call(NDARRAY, shape(1), dtype("O"), POINTERS),
    "object array from a buffer": call(FROMBUFFER, POINTERS, dtype("O"), shape(1), text("C")),
    "object array by its state": array_state(number(1), shape(1), dtype("O"), FALSE, POINTERS),
    "object array of lists": array_state(number(1), shape(1), dtype("O"), FALSE, b"]]a"),
    "object array of two thousand million": call(RECONSTRUCT, NDARRAY, shape(2 * 10**9), text("O")),
    "structured dtype with a field of objects": one_field("O", 0),
    "structured dtype whose fields lie outside": one_field("i8", 2**30),
    "sub-array dtype by its state": dtype_state(
        "V8", number(3), text("|"), many(dtype("O"), shape(1)), NONE, NONE, number(8), number(1), number(0)
    ),
    "state of the dtype of all bytes": dtype_state(
        "u1", number(3), text(">"), NONE, NONE, NONE, number(2**31 - 1), number(2**31 - 1), number(63)
    ),
    "dtype with metadata": dtype_state(
        "M8", number(4), text("<"), NONE, NONE, NONE, number(-1), number(-1), number(0), many(b"}", many(raw(b"us")))
    ),
    "dtype that is an object": dtype("O"),
    "dtype of a thousand million bytes": stored("V1000000000", raw(b""), 0),
    "dtype of strings of 2 GiB": call(NDARRAY, shape(10), dtype("S2147483647")),
    "dtype of a hundred thousand fields": dtype("u1," * 100_000 + "u1"),
    "dtype of a sub-array of 10**9": dtype("(1000000000,)u1"),
    "dtype of times": stored("M8[us]", raw(bytes(8 * 3072)), 1, 3072),
    "dtype of strings": stored("S1", raw(bytes(2 * 3072)), 2, 3072),
    "dtype from a dict": call(
        DTYPE, b"}" + text("names") + b"]" + text("a") + b"a" + b"s" + text("formats") + b"]" + text("O") + b"as"
    ),
    "dtype of unknown letters": dtype("\U0001f4a3"),
    "ndarray of 10**11 bytes": call(NDARRAY, shape(10**11), dtype("u1")),
    "ndarray of a bomb": call(NDARRAY, shape(BOMB), dtype("u1")),
    "ndarray of 2**62 bytes": call(NDARRAY, shape(2**62), dtype("u1")),
    "ndarray of negative size": call(NDARRAY, shape(-5), dtype("u1")),
    "ndarray of 70 axes": call(NDARRAY, shape(*[1] * 70), dtype("u1")),
    "strides beyond the buffer": call(NDARRAY, shape(2, 3072), dtype("u1"), POINTERS, number(0), shape(64, 64)),
    "strides of 0": call(NDARRAY, shape(100_000, 3072), dtype("u1"), POINTERS, number(0), shape(0, 0)),
    "negative strides": call(NDARRAY, shape(2, 3072), dtype("u1"), POINTERS, number(7), shape(-3072, -1)),
    "negative offset": call(NDARRAY, shape(4), dtype("u1"), POINTERS, number(-64)),
    "buffer that is too short": call(FROMBUFFER, POINTERS, dtype("u1"), shape(2, 3072), text("C")),
    "buffer of another order": call(FROMBUFFER, POINTERS, dtype("u1"), shape(8), text("\U0001f4a3")),
    "buffer that is a list": call(FROMBUFFER, LABELS, dtype("u1"), shape(2), text("C")),
    "reconstruct of 10**11": call(RECONSTRUCT, NDARRAY, shape(10**11), text("u1")),
    "reconstruct of a dtype": call(RECONSTRUCT, DTYPE, shape(0), text("u1")),
    "reconstruct without arguments": call(RECONSTRUCT),
    "state with too few bytes": stored("u1", raw(b"1234"), 2, 3072),
    "state with too many bytes": stored("u1", raw(bytes(9000)), 2, 3072),
    "state of negative shape": stored("u1", raw(bytes(6)), -2, -3),
    "state of a shape that overflows": stored("u1", raw(b""), 2**32, 2**32),
    "state of text": array_state(number(1), shape(4), dtype("u1"), FALSE, text("ab\u0100d")),
    "state of a list of bytes": array_state(number(1), shape(2), dtype("u1"), FALSE, LABELS),
    "state of another length": array_state(number(1)),
    "state of other types": array_state(LABELS, text("x"), NDARRAY, NONE, b"}"),
    "state twice": PIXELS + many(number(1), shape(1), dtype("O"), FALSE, POINTERS) + BUILD,
    "state for a class": NDARRAY + many(NONE, b"}" + text("tobytes") + number(1) + b"s") + BUILD,
    "state for a function": b"c_codecs\nencode\n"
    + many(NONE, b"}" + text("__defaults__") + many(number(1)) + b"s")
    + BUILD,
    "items for an array": PIXELS + number(0) + text("x") + b"s",
    "values appended to an array": PIXELS + MARK + number(1) + b"e",
    "subclass by NEWOBJ": NDARRAY + many(shape(10**11)) + b"\x81",
    "subclass by NEWOBJ_EX": NDARRAY + many(shape(1)) + b"}" + text("dtype") + text("O") + b"s\x92",
    # names that are more than arrays
    "os.system": call(b"cos\nsystem\n", text(COMMAND)),
    "posix.system": call(b"cposix\nsystem\n", text(COMMAND)),
    "system by STACK_GLOBAL": call(text("os") + text("system") + b"\x93", text(COMMAND)),
    "system by INST": MARK + text(COMMAND) + b"ios\nsystem\n",
    "system by OBJ": MARK + b"cos\nsystem\n" + text(COMMAND) + b"o",
    "Popen by NEWOBJ": b"csubprocess\nPopen\n" + many(text(COMMAND)) + b"\x81",
    "eval": call(b"cbuiltins\neval\n", text("open('executed', 'w')")),
    "exec": call(b"c__builtin__\nexec\n", text("open('executed', 'w')")),
    "getattr": call(b"cbuiltins\ngetattr\n", NDARRAY, text("tofile")),
    "copyreg": call(b"ccopyreg\n_reconstructor\n", NDARRAY, b"cbuiltins\nobject\n", NONE),
    "decode": call(b"c_codecs\ndecode\n", raw(b"x"), text("unicode_escape")),
    "encode with another codec": call(b"c_codecs\nencode\n", text("x"), text("zip")),
    "encode of a number": call(b"c_codecs\nencode\n", number(10**9)),
    "encode of letters that are no bytes": call(b"c_codecs\nencode\n", text("\u0100")),
    "numpy.load": call(b"cnumpy\nload\n", text("executed")),
    "numpy.memmap": call(b"cnumpy\nmemmap\n", text("executed"), text("u1"), text("w+"), number(0), shape(10)),
    "numpy.save": call(b"cnumpy\nsave\n", text("executed"), number(1)),
    "numpy.fromfile": call(b"cnumpy._core.multiarray\nfromfile\n", text("/etc/passwd")),
    "numpy.testing runstring": call(b"cnumpy.testing._private.utils\nrunstring\n", text("open('executed','w')"), b"}"),
    "numpy.f2py": call(b"cnumpy.f2py\nrun_main\n", LABELS),
    "dotted name": call(text("numpy") + text("ndarray.tofile") + b"\x93", PIXELS, text("executed")),
    "dotted module": call(text("numpy.os") + text("system") + b"\x93", text(COMMAND)),
    "name of no module": call(b"c\n\n", NONE),
    "extension code": b"\x82\x01",
    "extension code of four bytes": b"\x84" + struct.pack("<i", -1),
    "persistent id": b"Pid\n",
    "binary persistent id": text("id") + b"Q",
    "buffer out of band": b"\x97",
    "read-only buffer": text("x") + b"\x98",
    # growth
    "memo index of 2**31": NONE + b"r" + struct.pack("<I", 2**31 - 1),
    "memo index of 10**8": NONE + b"r" + struct.pack("<I", 10**8),
    "memo index in text": NONE + b"p99999999999999999999\n",
    "memo that is not there": b"h\x63",
    "tuples that double": laughs(text("ha") * 1, b"\x86", 60),
    "lists that double": laughs(b"]" + text("ha") + b"a", b"\x86", 60),
    "tuples 100,000 deep": b")" + b"\x85" * 100_000,
    "lists 100,000 deep": b"]" * 100_000 + b"a" * 99_999,
    "list in itself": b"]q\x01h\x01a",
    "LONG4 of 2 GiB": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "LONG4 of negative length": b"\x8b" + struct.pack("<i", -1),
    "LONG of a million digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "BINUNICODE8 of 2**62": b"\x8d" + struct.pack("<Q", 2**62),
    "BINBYTES8 of 2**62": b"\x8e" + struct.pack("<Q", 2**62),
    "BYTEARRAY8 of 2**36": b"\x96" + struct.pack("<Q", 2**36),
    "BINBYTES of 4 GiB": b"B" + struct.pack("<I", 2**32 - 1),
    "BINSTRING of negative length": b"T" + struct.pack("<i", -1),
    "FRAME of 2**62": b"\x95" + struct.pack("<Q", 2**62),
    "stack that is empty": b"R",
    "mark that is missing": b"t",
    "opcode that does not exist": b"\xff",
    "not an array": text("pixels"),
    "float pixels": stored("f8", raw(bytes(2 * 3072 * 8)), 2, 3072),
    "pixels of another width": stored("u1", raw(bytes(2 * 3071)), 2, 3071),
    "pixels of no image": stored("u1", raw(b""), 0, 3072),
}

LABEL_LISTS: dict[str, bytes] = {
    "labels of 400 digits": b"]" + MARK + number(10**400) + number(0) + b"e",
    "labels of 2**63": b"]" + MARK + number(2**63) + number(0) + b"e",
    "labels below 0": b"]" + MARK + number(-1) + number(0) + b"e",
    "labels beyond the classes": b"]" + MARK + number(99) + number(0) + b"e",
    "labels that are NaN": b"]" + MARK + b"G" + struct.pack(">d", float("nan")) + number(0) + b"e",
    "labels that are lists": b"]" + MARK + b"]" + b"]" + b"e",
    "labels of another number": b"]" + MARK + number(1) + b"e",
    "labels in a dict": b"}" + number(0) + number(1) + b"s",
}

NAMES: dict[str, Any] = {
    "class names that are numbers": {"label_names": [1, 2]},
    "class names in a tuple": {"label_names": ("a", "b")},
    "class names twice": {"label_names": ["a", "a"]},
    "no class names": {"label_names": []},
    "no such key": {"names": ["a", "b"]},
    "keys of other types": {(1, 2): 3, None: 4},
}

WHOLE_FILES: dict[str, bytes] = {
    "empty": b"",
    "protocol 255": b"\x80\xff}.",
    "without an end": b"\x80\x04}",
    "only an end": b".",
    "a list": b"\x80\x04].",
    "python source": b"import os\nos.system('echo x > executed')\n",
    "zeros": bytes(1000),
    "cut short": pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]})[:-100],
}


def batch(data: bytes = PIXELS, labels: bytes = LABELS) -> bytes:
    return b"\x80\x04}" + MARK + text("labels") + labels + text("data") + data + b"u."


def folder(at: Path, **replaced: bytes) -> None:
    """A folder of CIFAR-10 with two images in every batch; some files have another content."""
    for index, name in enumerate(("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")):
        pixels = np.random.default_rng(index).integers(0, 256, (2, 3072), np.uint8)
        write(at / name, pickle.dumps({"data": pixels, "labels": [0, 1]}, 2))
    for name, content in {"test_batch": batch(), "batches_meta": pickle.dumps({"label_names": ["a", "b"]}, 2)}.items():
        write(at / name.replace("_meta", ".meta"), content)
    for name, content in replaced.items():
        write(at / name.replace("_meta", ".meta"), content)


def kinds() -> Iterator[Kind]:
    """All kinds of this file."""
    yield Kind("pickle/whole", "data", folder, outcome=READ)
    yield Kind("pickle/bytes behind the end", "data", partial(folder, test_batch=batch() + b"x" * 100), outcome=EITHER)
    files = {name: {"test_batch": batch(data)} for name, data in DATA.items()}
    files |= {name: {"test_batch": batch(labels=labels)} for name, labels in LABEL_LISTS.items()}
    files |= {name: {"batches_meta": pickle.dumps(value, 2)} for name, value in NAMES.items()}
    files |= {name: {"test_batch": content} for name, content in WHOLE_FILES.items()}
    for name, replaced in files.items():
        yield Kind(f"pickle/{name}", "data", partial(folder, **replaced), outcome=REFUSED)
