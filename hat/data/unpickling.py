"""Read a pickle of numpy arrays and plain containers without trusting it.

A pickle is a program. Here it runs on a machine of its own, which knows the instructions that such a pickle needs and
no others. The machine never calls what a pickle names: it records what the pickle says about a dtype or an array, and
makes the array itself once the number type is plain and the bytes are as many as the shape says. The unpicklers of
Python are not used, because they reserve as much memory as a single instruction claims.

Example, the array [[1, 2]] of uint8 in protocol 2, with the stack after each step:

    GLOBAL numpy dtype, ("u1", False, True), REDUCE     dtype u1
    GLOBAL numpy _reconstruct, (ndarray, (0,), b"b"), REDUCE     an array of which nothing is known
    (1, (1, 2), dtype u1, False, b"\\1\\2"), BUILD     the array is known
"""

from __future__ import annotations

import codecs
import io
import itertools
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from hat.data.limits import Budget, TooLargeError

STEP = 256  # bytes that one instruction takes at most, beside those that it reads: a dict, or a place in the memo
STEPS = 4096  # instructions from one look at the budget to the next

_NAMES = ("_reconstruct", "_frombuffer", "scalar", "ndarray", "dtype")
_PLAIN = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")


class _Refused(Exception):
    """The pickle says what no pickle of arrays says. The message says what."""


@dataclass(frozen=True)
class _Name:
    """A name that the pickle may use: one of numpy, or `encode`."""

    text: str


@dataclass
class _Dtype:
    """What a pickle says about a number type."""

    plain: np.dtype

    def build(self, state: Any) -> None:
        """The state sets the byte order. A plain type has no fields, and no size of its own."""
        if not (isinstance(state, tuple) and len(state) >= 2 and state[0] in (2, 3) and state[1] in tuple("<>|=")):
            raise _Refused("a number type with a strange state")
        if any(value is not None for value in state[2:5]) or any(value not in (-1, 0) for value in state[5:]):
            raise _Refused("a number type with fields")
        if state[1] != "|":
            self.plain = self.plain.newbyteorder(state[1])


@dataclass
class _Array:
    """What a pickle says about an array. `content` is None until its state has come."""

    content: np.ndarray | None = None

    def build(self, state: Any) -> None:
        if self.content is not None or not (isinstance(state, tuple) and len(state) == 5):
            raise _Refused("an array with a strange state")
        _, shape, dtype, by_columns, data = state
        self.content = _array(data, dtype, shape, "F" if by_columns is True else "C")


def unpickle(where: str, data: bytes, budget: Budget | None = None) -> dict[str, Any]:
    """Read a pickled dictionary. Nothing in it is executed. Strings of Python 2 become str.

    Args:
        where: the place of the pickle, for the message.
        data: the pickle.
        budget: counts what the pickle makes while it is read; by default 2 GiB.

    Returns:
        The dictionary. Its keys are str; its values are arrays of numbers, numbers, strings, bytes, lists, tuples and
        dicts.

    Raises:
        ValueError: the pickle is damaged, holds other objects, or is no dictionary; the message names `where`.
    """
    try:
        content = _Machine(where, data, budget or Budget()).run()
        if not isinstance(content, dict):
            raise _Refused(f"a {type(content).__name__.lstrip('_').lower()}")
        return {_text(key): _finished(value) for key, value in content.items()}
    except TooLargeError:
        raise
    except _Refused as error:
        raise ValueError(f"{where}: expected a pickled dict of arrays, got {error}") from error
    except Exception as error:  # a damaged pickle raises errors of many classes
        raise ValueError(f"{where}: expected a pickled dict of arrays, got a damaged or truncated one") from error


def _text(key: str | bytes) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else key


def _finished(value: Any) -> Any:
    if not isinstance(value, _Array):
        return value
    if value.content is None:
        raise _Refused("an array without content")
    return value.content


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """The array that a pickle describes, over its bytes."""
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise _Refused("an array that is not made of bytes and a plain number type")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 4:
        raise _Refused("an array with a strange shape")
    if len(data) != math.prod(shape) * dtype.plain.itemsize:
        raise _Refused(f"an array with {len(data)} bytes instead of those of its shape")
    return np.ndarray(shape, dtype.plain, data, order=order)


def _dtype(code: Any, *_: Any) -> _Dtype:
    if not isinstance(code, str) or not _PLAIN.fullmatch(code):
        raise _Refused("an array of other things than plain numbers")
    return _Dtype(np.dtype(code))


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind != _Name("ndarray"):
        raise _Refused("an array of a strange class")
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_array(data, dtype, shape, order))


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C").item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python writes bytes in the protocols before 3."""
    if not isinstance(text, str):
        raise _Refused("bytes that are made of no text")
    return text.encode("latin1")


_CALLS: dict[str, Callable[..., Any]] = {
    "dtype": _dtype,
    "_reconstruct": _reconstruct,
    "_frombuffer": _frombuffer,
    "scalar": _scalar,
    "encode": _encode,
}


def _name(module: Any, name: Any) -> _Name:
    if not (isinstance(module, str) and isinstance(name, str)):  # the text of nested tuples may have no end
        raise _Refused("a name that is no text")
    known = module.split(".")[0] == "numpy" and name in _NAMES
    if known or (module, name) == ("_codecs", "encode"):
        return _Name(name)
    shown = re.sub(r"[^\w.]", "?", f"{module}.{name}"[:80])
    raise _Refused(f"refused {shown}: only numpy arrays and plain containers are read")


class _Machine:
    """Runs a pickle: a stack, the places where lists and tuples begin, and a memo of values by number."""

    def __init__(self, where: str, data: bytes, budget: Budget) -> None:
        self._where, self._stream, self._budget, self._size = where, io.BytesIO(data), budget, len(data)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._encoded = 0  # bytes that were made of texts

    def run(self) -> Any:
        """The value that the pickle makes."""
        read = self._stream.read
        for count in itertools.count():
            if count % STEPS == 0:
                self._budget.need(self._where, self._size + self._encoded + STEP * (count + STEPS))
            name, argument = _CODES[read(1)]
            if name == "STOP":
                return self._pop()
            value = argument(self._stream) if argument else None
            if name in _VALUES:
                self._stack.append(value)
            else:
                _STEPS[name](self, value)

    def _pop(self) -> Any:
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise _Refused("a damaged one")
        return self._stack.pop()

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _ignore(self, _: Any) -> None:
        """PROTO and FRAME say nothing of the values."""

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _pop_one(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def _tuple(self, count: int) -> None:
        self._stack.append(tuple([self._pop() for _ in range(count)][::-1]))

    def _append(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise _Refused("a damaged one")
        self._stack[-1].extend(values)

    def _set_items(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not dict or len(values) % 2:
            raise _Refused("a damaged one")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, bytes)):  # many equal hashes of numbers would take for ever
                raise _Refused("a dict with keys that are no strings")
            self._stack[-1][key] = value

    def _dict(self, _: Any) -> None:
        values = self._since_mark()
        self._stack.append({})
        self._set_items(values)

    def _memoize(self, number: int | None) -> None:
        self._memo[len(self._memo) if number is None else number] = self._stack[-1]

    def _get(self, number: int) -> None:
        self._stack.append(self._memo[number])

    def _reduce(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        if not (isinstance(name, _Name) and name.text in _CALLS and isinstance(arguments, tuple)):
            raise _Refused("one with a call that makes no array")
        self._count_texts(arguments)
        self._stack.append(_CALLS[name.text](*arguments))

    def _count_texts(self, values: tuple[Any, ...]) -> None:
        """Count texts that become bytes: one text in the memo may become bytes many times."""
        self._encoded += sum(len(value) for value in values if isinstance(value, str))
        self._budget.need(self._where, self._size + self._encoded)

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self._stack[-1]
        if not isinstance(target, (_Array, _Dtype)):
            raise _Refused("one with a state of something that is no array")
        self._count_texts(state if isinstance(state, tuple) else ())
        target.build(state)

    def _global(self, names: str) -> None:
        self._stack.append(_name(*names.split(" ", 1)))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._stack.append(_name(module, name))


def _string(stream: IO[bytes]) -> str:
    """A quoted string of protocol 0, as Python 2 wrote them."""
    return codecs.escape_decode(stream.readline().strip()[1:-1])[0].decode("latin1")


def _number(stream: IO[bytes]) -> int:
    """A whole number of protocol 0. `00` and `01` are False and True."""
    text = stream.readline().strip()
    if len(text) > 100:  # converting a text to a number takes the square of its length
        raise _Refused("a number of more than 100 digits")
    return {b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text.removesuffix(b"L"))


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"),
    *("SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE"),
    *("SHORT_BINUNICODE", "BINUNICODE8"),
}
"""Instructions that push the value that they carry."""

_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine._ignore,
    "FRAME": _Machine._ignore,
    "NONE": lambda machine, _: machine._stack.append(None),
    "NEWTRUE": lambda machine, _: machine._stack.append(True),
    "NEWFALSE": lambda machine, _: machine._stack.append(False),
    "MARK": _Machine._mark,
    "POP": _Machine._pop_one,
    "POP_MARK": _Machine._pop_mark,
    "DUP": lambda machine, _: machine._stack.append(machine._stack[-1]),
    "EMPTY_TUPLE": lambda machine, _: machine._stack.append(()),
    "EMPTY_LIST": lambda machine, _: machine._stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine._stack.append({}),
    "TUPLE": lambda machine, _: machine._stack.append(tuple(machine._since_mark())),
    "LIST": lambda machine, _: machine._stack.append(machine._since_mark()),
    "DICT": _Machine._dict,
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "APPEND": lambda machine, _: machine._append([machine._pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._since_mark()),
    "SETITEM": lambda machine, _: machine._set_items([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, _: machine._set_items(machine._since_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine._memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
}
"""The other instructions. What is in neither table is refused."""

_READERS = {"STRING": _string, "INT": _number, "LONG": _number, "PUT": _number, "GET": _number}

_CODES: dict[bytes, tuple[str, Callable[[IO[bytes]], Any] | None]] = {
    code.code.encode("latin1"): (code.name, _READERS.get(code.name, code.arg.reader if code.arg else None))
    for code in pickletools.opcodes
}
