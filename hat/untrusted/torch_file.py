"""Check what a checkpoint claims, before torch gives memory to it.

Example: the pickle in a checkpoint says "a tensor of 10**12 numbers, whose bytes are in data/0". The member `data/0` of
the archive has 16 bytes. `check_torch_file` finds this without making the tensor.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch

from hat.arguments import got
from hat.untrusted.files import in_words

_DIMENSIONS = 64
_HUGE_KEYS = 1000  # so few numbers with the same hash cost no time
_DEPTH = 1000  # levels of lists, tuples and dicts
_EXPANDED = 64 << 20  # bytes of all tensors of a file beyond those of their storages: an expanded tensor takes no room
_NONE = type(None)


def check_torch_file(path: str | os.PathLike[str]) -> Any:
    """Check a file of `torch.save` that holds tensors, numbers and texts, before torch reads it.

    The archive must hold every byte once, unpacked and with its checksum. No tensor may reach beyond the bytes of its
    storage. No list, tuple or dict may be there twice, as such values grow without end when somebody walks through
    them.

    Returns:
        The value in the file, with an object without content for every tensor.

    Raises:
        ValueError: something is wrong; the message says what, and does not name the file.
    """
    size = os.stat(path).st_size
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = _member_sizes(archive, size)
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"a wrong checksum in {got(damaged)}")
            top = archive.namelist()[0].partition("/")[0]
            if f"{top}/data.pkl" not in sizes or f"{top}/constants.pkl" in sizes:
                raise ValueError("an archive of other files")
            if f"{top}/byteorder" in sizes and archive.read(f"{top}/byteorder") not in (b"little", b"big"):
                raise ValueError("numbers of an unknown byte order")
            pickled = archive.read(f"{top}/data.pkl")
        with open(path, "rb") as file:
            _check_end(file, size)
    except PermissionError as error:
        raise ValueError(in_words(error)) from None
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, struct.error, UnicodeError):
        raise ValueError("a file that is no archive, or is cut short or damaged") from None
    if pickled[:2] != pickle.PROTO + b"\2":
        raise ValueError("a pickle of another protocol")
    storages = {name.removeprefix(f"{top}/data/"): count for name, count in sizes.items()}
    try:
        value = _Claims(pickled, storages).load()
    except _ClaimError:
        raise
    except Exception:  # a damaged pickle may raise any error
        raise ValueError("a damaged pickle") from None
    _check_tree(value)
    return value


def _member_sizes(archive: zipfile.ZipFile, size: int) -> dict[str, int]:
    """The sizes of the members of an archive of `size` bytes, by name."""
    members = archive.infolist()
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"a packed member, {got(member.filename)}; torch writes members as they are")
        if member.flag_bits & 1:
            raise ValueError(f"an encrypted member, {got(member.filename)}")
    sizes = {member.filename: member.file_size for member in members}
    if not sizes:
        raise ValueError("an archive without a member")
    if len(sizes) < len(members) or sum(sizes.values()) > size:
        raise ValueError("members that lie in the same place of the file, or have the same name")
    if archive.comment or min(member.header_offset for member in members) > 0:
        raise ValueError("an archive with bytes before or behind it")
    return sizes


def _check_end(file: io.BufferedReader, size: int) -> None:
    """Check that the directory for large archives is where its pointer says, as torch follows the pointer."""
    file.seek(max(0, size - 42))
    pointer = file.read(20)
    if pointer.startswith(b"PK\6\7") and int.from_bytes(pointer[8:16], "little") != size - 98:
        raise ValueError("an archive with two directories")


class _ClaimError(ValueError):
    """A pickle says something that `torch.save` does not write for tensors, numbers and texts."""


class _Storage(NamedTuple):
    """A storage of `length` numbers of `width` bytes."""

    length: int
    width: int


class _Tensor:
    """Stands for a tensor that was checked."""

    __slots__ = ()


class _Numbers(NamedTuple):
    """A dtype or a class of storages, whose numbers have `width` bytes."""

    width: int


_NAMES = """
    PROTO STOP MARK GLOBAL REDUCE BUILD BINPERSID NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
    EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS BINGET LONG_BINGET
    BINPUT LONG_BINPUT
"""
_OPCODES = b"".join(getattr(pickle, name) for name in _NAMES.split())
"""What `torch.save` writes. Each of them takes memory in proportion to the bytes of the file."""


_STORAGES = {"ComplexDoubleStorage": 16, "ComplexFloatStorage": 8, "DoubleStorage": 8, "LongStorage": 8}
_STORAGES |= {"FloatStorage": 4, "IntStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "ShortStorage": 2}
_STORAGES |= {"CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1}
"""The bytes of a number in the storages of `torch`, by the name of their class."""


class _Claims(pickle._Unpickler):  # the one in C gives as much memory to its memo as an index in the file says
    """An unpickler that makes no tensor, but checks what the pickle says of tensors.

    Args:
        pickled: the pickle.
        storages: the bytes of the storages by their keys.
    """

    stack: list[Any]

    def __init__(self, pickled: bytes, storages: dict[str, int]) -> None:
        super().__init__(io.BytesIO(pickled))
        self.storages = storages
        self.widths: dict[str, int] = {}
        self.expanded = self.huge_keys = 0
        self.functions: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_of_dtype,
            ("torch._utils", "_rebuild_meta_tensor_no_storage"): lambda dtype, size, stride, grad: _Tensor(),
            ("collections", "OrderedDict"): lambda: OrderedDict(),
            ("torch", "Size"): self._sizes,
            ("__builtin__", "complex"): lambda real, imaginary: complex(float(real), float(imaginary)),
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.functions:
            return self.functions[module, name]
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return _Numbers(1)
        if module == "torch" and name in _STORAGES:
            return _Numbers(_STORAGES[name])
        if module == "torch" and name.isidentifier() and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return _Numbers(dtype.itemsize)
        raise _ClaimError(f"the name {got(f'{module}.{name}')}, which no checkpoint holds")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, location, count = pid
        if kind != "storage" or type(storage) is not _Numbers or not type(key) is type(location) is str:
            raise _ClaimError("a storage of other facts")
        if type(count) is not int:
            raise _ClaimError("a storage of other facts")
        size = self.storages.get(key)
        if size is None:
            raise _ClaimError(f"a storage that the archive lacks, {got(key)}")
        if count * storage.width != size:
            raise _ClaimError(f"a storage of {got(count)} numbers of {storage.width} bytes in {size} bytes")
        if self.widths.setdefault(key, storage.width) != storage.width:
            raise _ClaimError(f"a storage of two dtypes, {got(key)}")
        return _Storage(count, storage.width)

    def _sizes(self, sizes: Any) -> tuple[Any, ...]:
        if type(sizes) is not tuple or len(sizes) > _DIMENSIONS:
            raise _ClaimError(f"a torch.Size of more than {_DIMENSIONS} numbers")
        return (*sizes,)

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
    ) -> _Tensor:
        """Check that a tensor lies within its storage."""
        if type(storage) is not _Storage or not type(size) is type(stride) is tuple or len(size) != len(stride):
            raise _ClaimError("a tensor of other facts")
        if not all(type(number) is int and 0 <= number < 2**63 for number in (offset, *size, *stride)):
            raise _ClaimError("a tensor whose sizes are no whole numbers from 0 on")
        if (
            type(requires_grad) is not bool
            or type(hooks) is not OrderedDict
            or hooks
            or type(metadata) not in (_NONE, dict)
        ):
            raise _ClaimError("a tensor with hooks or with other facts")
        count = math.prod(size)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if last >= storage.length if count else offset > storage.length:
            raise _ClaimError(f"a tensor that reaches beyond the {storage.length} numbers of its storage")
        self.expanded += max(0, count - storage.length) * storage.width
        if self.expanded > _EXPANDED:
            raise _ClaimError(f"tensors of many more numbers than their storages, of {got(count)} in {storage.length}")
        return _Tensor()

    def _tensor_of_dtype(self, storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> _Tensor:
        """Check a tensor whose storage has bytes, and whose dtype stands beside it."""
        requires_grad, hooks, dtype, *metadata = more
        if type(storage) is not _Storage or storage.width != 1 or type(dtype) is not _Numbers:
            raise _ClaimError("a tensor of other facts")
        numbers = _Storage(storage.length // dtype.width, dtype.width)
        return self._tensor(numbers, offset, size, stride, requires_grad, hooks, *metadata)

    def _build(self) -> None:
        """Give an OrderedDict its attribute `_metadata`; nothing else has a state."""
        state = self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict or type(state) is not dict or {*state} != {"_metadata"}:
            raise _ClaimError("a state for an object that has none")
        vars(self.stack[-1]).update(state)

    def _set_items(self) -> None:
        self._set(self.pop_mark())  # type: ignore[attr-defined]

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set(self, items: list[Any]) -> None:
        """Fill a dict. Tuples of tuples, and huge numbers with one hash, would take for ever as keys."""
        if type(self.stack[-1]) not in (dict, OrderedDict) or len(items) % 2:
            raise _ClaimError("entries of something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int, float, bool, _NONE):
                raise _ClaimError("a dict with other keys than texts and numbers")
            self.huge_keys += type(key) is int and key.bit_length() > 64
            if self.huge_keys > _HUGE_KEYS:
                raise _ClaimError(f"more than {_HUGE_KEYS} numbers of more than 64 bits as keys")
            self.stack[-1][key] = value

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: function for code, function in pickle._Unpickler.dispatch.items() if code in _OPCODES
    }
    dispatch |= {pickle.BUILD[0]: _build, pickle.SETITEM[0]: _set_item, pickle.SETITEMS[0]: _set_items}


def _check_tree(value: Any) -> None:
    """Check that values are of the types that a checkpoint holds, and that each list, tuple and dict is there once."""
    seen: set[int] = set()
    left = [(value, 0)]
    while left:
        value, depth = left.pop()
        kind = type(value)
        if kind in (_Tensor, _NONE, bool, int, float, complex, str):
            continue
        if kind not in (list, tuple, dict, OrderedDict):
            raise ValueError(f"a value that no checkpoint holds, {kind.__name__.strip('_')}")
        if value != () and id(value) in seen:
            raise ValueError(f"a {kind.__name__} that is there twice")
        if depth > _DEPTH:
            raise ValueError(f"values nested more than {_DEPTH} deep")
        seen.add(id(value))
        if kind in (dict, OrderedDict):
            if not all(type(key) in (str, int, float, bool, _NONE) for key in value):
                raise ValueError("a dict with keys that are neither texts nor numbers")
            value = (*value.values(), *getattr(value, "__dict__", {}).values())
        left += [(part, depth + 1) for part in value]
