"""Checkpoints whose archive, pickle or tensors lie."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tests.hostile.kind import BOMB, EITHER, READ, Kind, write
from tests.hostile.pickles import BUILD, COMMAND, FALSE, call, laughs, many, number, text

ORDERED = b"ccollections\nOrderedDict\n)R"


def storage(key: str = "0", count: int = 4, kind: str = "torch\nFloatStorage", place: str = "cpu") -> bytes:
    return many(text("storage"), f"c{kind}\n".encode(), text(key), text(place), integer(count)) + b"Q"


def integer(value: int) -> bytes:
    """As torch reads it: its own unpickler knows few opcodes."""
    return b"K" + bytes([value]) if 0 <= value < 256 else number(value)


def sizes(*values: int) -> bytes:
    return many(*map(integer, values))


def tensor(
    size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0, *more: bytes, of: bytes = b""
) -> bytes:
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return call(function, of or storage(), integer(offset), sizes(*size), sizes(*stride), FALSE, ORDERED, *more)


def rebuilt(name: str, *arguments: bytes) -> bytes:
    return call(f"ctorch._utils\n{name}\n".encode(), *arguments)


def layout(name: str) -> bytes:
    return call(b"ctorch.serialization\n_get_layout\n", text(f"torch.{name}"))


def sparse(index: int, size: int) -> bytes:
    indices = tensor((1, 1), (1, 1), of=storage("1", 1, "torch\nLongStorage"))
    parts = many(indices, tensor((1,)), many(integer(size)), FALSE)
    return rebuilt("_rebuild_sparse_tensor", layout("sparse_coo"), parts) if index else tensor()


def document(payload: bytes, *, format_name: bytes = text("hat-checkpoint"), version: bytes = integer(1)) -> bytes:
    parts = text("format") + format_name + text("version") + version + text("payload") + payload
    return b"\x80\x02}(" + parts + b"u."


def holding(value: bytes) -> bytes:
    return document(b"}" + text("x") + value + b"s")


def archive(path: Path, pickled: bytes, method: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    """A file as torch writes it: a pickle, and storages of 4 numbers."""
    whole = {
        "data.pkl": pickled,
        "byteorder": b"little",
        "data/0": struct.pack("<4f", 1, 2, 3, 4),
        "data/1": struct.pack("<q", 9),
        "version": b"3\n",
        **members,
    }
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in whole.items():
            file.writestr(f"archive/{name}", content)


VALUES: dict[str, bytes] = {
    # tensors that are larger than their bytes
    "storage of 10**12 numbers": tensor(of=storage(count=10**12)),
    "storage of one number more": tensor(of=storage(count=5)),
    "storage of fewer numbers": tensor((2,), of=storage(count=2)),
    "storage of negative count": tensor(of=storage(count=-4)),
    "storage of another type": tensor(of=storage(kind="torch\nDoubleStorage")),
    "storage without a type": tensor(of=storage(kind="torch.storage\nUntypedStorage")),
    "storage that is missing": tensor(of=storage("7")),
    "storage that is outside": tensor(of=storage("../data.pkl", 1)),
    "storage on a device that does not exist": tensor(of=storage(place="cuda:77")),
    "storage on meta": tensor((10**12,), of=storage(count=10**12, place="meta")),
    "storage that is text": call(
        b"ctorch._utils\n_rebuild_tensor_v2\n", text("x"), integer(0), sizes(4), sizes(1), FALSE, ORDERED
    ),
    "same storage of two types": many(tensor(), tensor((1,), of=storage(count=1, kind="torch\nLongStorage"))),
    "size of 10**12": tensor((10**12,)),
    "size of 2**62": tensor((2**62,)),
    "size that overflows": tensor((2**32, 2**32), (2**32, 1)),
    "size below 0": tensor((-4,)),
    "size of text": call(
        b"ctorch._utils\n_rebuild_tensor_v2\n", storage(), integer(0), text("4"), sizes(1), FALSE, ORDERED
    ),
    "size of one more": tensor((5,)),
    "stride of 2**40": tensor((2,), (2**40,)),
    "stride below 0": tensor((4,), (-1,)),
    "strides of another number": tensor((2, 2), (1,)),
    "stride of 0 and 10**12 numbers": tensor((10**12,), (0,)),
    "offset beyond the storage": tensor((1,), (1,), 4),
    "offset of 2**62": tensor((1,), (1,), 2**62),
    "offset below 0": tensor((1,), (1,), -1),
    "4 axes of 10**6 and stride 0": tensor((10**6,) * 2, (0, 0)),
    "2,000 views of 10**6 of one number": b"](" + tensor((10**6,), (0,)) * 2000 + b"e",
    "new dtype of another size": rebuilt(
        "_rebuild_tensor_v3",
        storage("0", 16, "torch.storage\nUntypedStorage"),
        integer(0),
        sizes(9),
        sizes(1),
        FALSE,
        ORDERED,
        b"ctorch\nuint16\n",
    ),
    "new dtype that is none": rebuilt(
        "_rebuild_tensor_v3",
        storage("0", 16, "torch.storage\nUntypedStorage"),
        integer(0),
        sizes(8),
        sizes(1),
        FALSE,
        ORDERED,
        text("uint16"),
    ),
    "metadata of other types": tensor((4,), (1,), 0, text("conj")),
    "meta tensor of 2**60": rebuilt(
        "_rebuild_meta_tensor_no_storage", b"ctorch\nfloat32\n", sizes(2**60), sizes(1), FALSE
    ),
    "sparse index outside": sparse(9, 2),
    "sparse of 2**62": sparse(9, 2**62),
    "sparse rows whose pointers lie": rebuilt(
        "_rebuild_sparse_tensor",
        layout("sparse_csr"),
        many(tensor((2,)), tensor((2,)), tensor((2,)), sizes(10**9, 10**9)),
    ),
    "quantized by an axis that is not there": rebuilt(
        "_rebuild_qtensor",
        storage("0", 16, "torch\nQInt8Storage"),
        integer(0),
        sizes(16),
        sizes(1),
        many(b"ctorch\nper_channel_affine\n", tensor(), tensor(), integer(99)),
        FALSE,
        ORDERED,
    ),
    "parameter of a number": rebuilt("_rebuild_parameter", integer(1), FALSE, ORDERED),
    "parameter with a state": rebuilt(
        "_rebuild_parameter_with_state", tensor(), FALSE, ORDERED, b"}" + text("x") + integer(1) + b"s"
    ),
    "subclass of a tensor": call(
        b"ctorch._tensor\n_rebuild_from_type_v2\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nTensor\n",
        many(storage(), integer(0), sizes(4), sizes(1), FALSE, ORDERED),
        b"}",
    ),
    "wrapper of a tensor": rebuilt(
        "_rebuild_wrapper_subclass",
        b"ctorch\nTensor\n",
        b"ctorch\nfloat32\n",
        sizes(10**9),
        sizes(1),
        integer(0),
        text("strided"),
        text("cpu"),
        FALSE,
    ),
    "state for a tensor": tensor() + many(storage(), integer(0), sizes(10**9), sizes(1)) + BUILD,
    "tensor from a list": call(b"ctorch\nTensor\n", integer(10**9)),
    "tensor of numpy": rebuilt(
        "_rebuild_device_tensor_from_numpy", text("x"), b"ctorch\nfloat32\n", text("cpu"), FALSE
    ),
    "nested tensor": rebuilt("_rebuild_nested_tensor", tensor(), tensor(), tensor(), tensor()),
    # values that no checkpoint holds
    "os.system": call(b"cos\nsystem\n", text(COMMAND)),
    "torch.load": call(b"ctorch\nload\n", text("executed")),
    "torch.hub": call(b"ctorch.hub\nload\n", text("x"), text("y")),
    "runpy": call(b"crunpy\n_run_code\n", text("x")),
    "getattr": call(b"cbuiltins\ngetattr\n", b"ctorch\nTensor\n", text("x")),
    "a class of this library": b"chat.life.model\nHATModel\n)\x81",
    "a layer of torch": b"ctorch.nn.modules.linear\nLinear\n)\x81",
    "bytearray of 10**10": call(b"cbuiltins\nbytearray\n", number(10**10)),
    "bytearray of a bomb": call(b"cbuiltins\nbytearray\n", number(BOMB)),
    "set of lists": call(b"cbuiltins\nset\n", b"](]]e"),
    "counter": call(b"ccollections\nCounter\n", b"]"),
    "OrderedDict of a number": call(b"ccollections\nOrderedDict\n", integer(1)),
    "state for an OrderedDict": ORDERED + b"}" + text("items") + integer(1) + b"s" + BUILD,
    "slots for an OrderedDict": ORDERED + many(b"N", b"}" + text("__class__") + b"ctorch\nSize\n" + b"s") + BUILD,
    "items for a tensor": tensor() + integer(0) + integer(1) + b"s",
    "complex of text": call(b"c__builtin__\ncomplex\n", text("x")),
    "bytes": call(b"c_codecs\nencode\n", text("x"), text("latin1")),
    "name of a device": call(b"ctorch\ndevice\n", text("cpu")),
    # growth
    "memo index of 2**31": b"N" + b"r" + struct.pack("<I", 2**31 - 1),
    "memo index of 10**8": b"N" + b"r" + struct.pack("<I", 10**8),
    "tuples that double": laughs(text("ha"), b"\x86", 60),
    "tuples 100,000 deep": b")" + b"\x85" * 100_000,
    "list in itself": b"]q\x01h\x01a",
    "100,000 empty lists": b"](" + b"]" * 100_000 + b"e",
    "dict with keys that are tensors": b"}" + tensor() + integer(1) + b"s",
    "dict with keys that are tuples": b"}" + many(integer(1)) + integer(1) + b"s",
    "BINUNICODE of 4 GiB": b"X\xff\xff\xff\xff",
    "BINBYTES8 of 2**62": b"\x8e" + struct.pack("<Q", 2**62),
    "LONG4 of 2 GiB": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "mark that is missing": b"t",
    "persistent id that is text": text("storage") + b"Q",
    "persistent id of five others": many(*[integer(1)] * 5) + b"Q",
    "extension code": b"\x82\x01",
}
READABLE = (
    "memo index of 10**8",
    "memo index of 2**31",
    "storage on a device that does not exist",
    "meta tensor of 2**60",
    "sparse of 2**62",
    "100,000 empty lists",
    "dict with keys that are tuples",
)

DOCUMENTS: dict[str, bytes] = {
    "format of a list": document(b"}", format_name=b"]"),
    "format of a tensor": document(b"}", format_name=tensor()),
    "version of 10**400": document(b"}", version=number(10**400)),
    "version of a tensor": document(b"}", version=tensor()),
    "version of text": document(b"}", version=text("1\n\x1b[2J" * 1000)),
    "payload of a list": document(b"]"),
    "payload of an OrderedDict with items": document(ORDERED + b"}" + text("keys") + integer(1) + b"s" + BUILD),
    "no end": document(b"}")[:-1],
    "no pickle": b"",
    "protocol 5": b"\x80\x05" + document(b"}")[2:],
    "another payload behind the end": document(b"}") + holding(tensor((10**12,))),
}


def legacy(path: Path) -> None:
    torch.save({"format": "hat-checkpoint", "version": 1, "payload": {}}, path, _use_new_zipfile_serialization=False)


def overlapping(path: Path) -> None:
    """Many storages that are the same megabyte of the file."""
    archive(path, holding(tensor()), **{"data/2": os.urandom(1 << 20)})
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    start = struct.unpack("<I", content[end + 16 : end + 20])[0]
    entry = content[content.rindex(b"PK\1\2", 0, content.rindex(b"PK\1\2")) : end]
    entries = content[start:end] + entry * 2000
    tail = content[end : end + 8] + struct.pack("<HH", 4000, 4000) + struct.pack("<II", len(entries), start) + b"\0\0"
    path.write_bytes(content[:start] + entries + tail)


def claims(path: Path, offset: int, value: bytes) -> None:
    """Change the entry of the first storage in the directory at the end."""
    archive(path, holding(tensor()))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"archive/data/0") - 46
    content[entry + offset : entry + offset + len(value)] = value
    path.write_bytes(content)


def two_directories(path: Path) -> None:
    """A second archive in the comment of the first."""
    archive(path, holding(tensor((10**12,))))
    hidden = path.read_bytes()
    archive(path, holding(tensor()))
    content = path.read_bytes()[:-2] + struct.pack("<H", len(hidden)) + hidden
    path.write_bytes(content)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "whole": (lambda path: archive(path, holding(tensor())), READ),
    "packed bomb": (
        lambda path: archive(
            path,
            holding(tensor((BOMB // 4,), of=storage("2", BOMB // 4))),
            zipfile.ZIP_DEFLATED,
            **{"data/2": bytes(BOMB)},
        ),
        "refused",
    ),
    "packed pickle": (lambda path: archive(path, holding(tensor()), zipfile.ZIP_DEFLATED), "refused"),
    "storages that overlap": (overlapping, "refused"),
    "member that claims 4 GiB": (lambda path: claims(path, 24, b"\xfe\xff\xff\xff"), "refused"),
    "member that claims 0 bytes": (lambda path: claims(path, 24, bytes(4)), "refused"),
    "packed size that lies": (lambda path: claims(path, 20, b"\xfe\xff\xff\x7f"), "refused"),
    "wrong checksum": (lambda path: claims(path, 16, b"abcd"), "refused"),
    "encrypted": (lambda path: claims(path, 8, b"\1\0"), "refused"),
    "unknown compression": (lambda path: claims(path, 10, b"\x63\0"), "refused"),
    "offset outside of the file": (lambda path: claims(path, 42, b"\xf0\xff\xff\x7f"), "refused"),
    "offset of the pickle": (lambda path: claims(path, 42, bytes(4)), "refused"),
    "two directories": (two_directories, "refused"),
    "other byte order": (lambda path: archive(path, holding(tensor()), **{"byteorder": b"big"}), EITHER),
    "byte order of no kind": (lambda path: archive(path, holding(tensor()), **{"byteorder": b"mixed"}), "refused"),
    "without a pickle": (lambda path: zipfile.ZipFile(path, "w").close(), "refused"),
    "a zip of images": (lambda path: zipfile.ZipFile(path, "w").writestr("a/b.png", b"x"), "refused"),
    "TorchScript": (
        lambda path: archive(path, holding(tensor()), **{"constants.pkl": b"x", "code/x.py": b"x"}),
        "refused",
    ),
    "legacy": (legacy, "refused"),
    "legacy that calls": (lambda path: write(path, pickle.dumps(print)), "refused"),
    "text": (lambda path: write(path, b"text"), "refused"),
    "empty": (lambda path: write(path, b""), "refused"),
    "zeros": (lambda path: write(path, bytes(10_000)), "refused"),
    "cut short": (lambda path: (archive(path, holding(tensor())), write(path, path.read_bytes()[:-50])), "refused"),
    "bytes in front": (
        lambda path: (archive(path, holding(tensor())), write(path, b"x" * 99 + path.read_bytes())),
        "refused",
    ),
    "missing": (lambda path: None, "refused"),
    "folder": (lambda path: path.mkdir(), "refused"),
    "pipe": (os.mkfifo, "refused"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "refused"),
    "link to itself": (lambda path: path.symlink_to(path.name), "refused"),
}


def kinds() -> Iterator[Kind]:
    """All kinds of this file."""
    for name, (build, outcome) in FILES.items():
        yield Kind(f"checkpoint/{name}", "checkpoint", lambda at, build=build: build(at / "x.pt"), "x.pt", outcome)
    pickles = {**{name: holding(value) for name, value in VALUES.items()}, **DOCUMENTS}
    for name, content in pickles.items():
        yield Kind(
            f"checkpoint/{name}",
            "checkpoint",
            lambda at, content=content: archive(at / "x.pt", content),
            "x.pt",
            EITHER if name in READABLE or name.startswith("another") else "refused",
        )
