"""A pickle may use arrays of plain numbers in plain ways only. It never crashes, and calls nothing."""

import pickle
import struct

import numpy as np
import pytest

from hat.data.limits import Budget, TooLargeError
from hat.data.unpickling import unpickle

NDARRAY, DTYPE = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"
FROMBUFFER = b"cnumpy._core.numeric\n_frombuffer\n"
EIGHT = b"C\x08AAAAAAAA"
MARKED = b"(K\x01"  # the shape (1,), not yet closed


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def dtype(code):
    return DTYPE + b"(" + text(code) + b"\x89\x88tR"


def frombuffer(code, data=EIGHT, shape=b"(K\x01t", order=b"C"):
    return FROMBUFFER + b"(" + data + code + shape + text(order.decode()) + b"tR"


def array(state):
    return RECONSTRUCT + b"(" + NDARRAY + b"(K\0tC\x01btR(" + state + b"tb"


FORGED = {
    "objects over a buffer": NDARRAY + b"((K\x01t" + dtype("O") + EIGHT + b"tR",
    "objects from a buffer": frombuffer(dtype("O")),
    "fields of objects": frombuffer(
        dtype("V8") + b"(K\x03" + text("|") + b"N(" + text("a") + b"t}" + text("a") + b"(" + dtype("O") + b"K\0ts"
        b"K\x08K\x01K\0tb"
    ),
    "a plain type that becomes objects": frombuffer(
        dtype("u8") + b"(K\x03" + text("|") + b"N(" + text("a") + b"t}" + text("a") + b"(" + dtype("O") + b"K\0ts"
        b"K\x08K\x01K\0tb"
    ),
    "a type with flags": frombuffer(
        dtype("u8") + b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
    ),
    "an array of 100 GB": NDARRAY + b"((\x8a\x05\x00\xe8\x76\x48\x17t" + dtype("u1") + b"tR",
    "strides out of bounds": NDARRAY + b"((M\x00\x10t" + dtype("u1") + EIGHT + b"K\0(K\x40ttR",
    "a reconstructed array with a size": RECONSTRUCT + b"(" + DTYPE + b"(K\0tC\x01btR",
    "fewer bytes than the shape": array(b"K\x01(M\x00\x10t" + dtype("u1") + b"\x89" + EIGHT),
    "a negative shape": array(b"K\x01(J\xff\xff\xff\xffJ\xf8\xff\xff\xfft" + dtype("u1") + b"\x89" + EIGHT),
    "a state of objects": array(b"K\x01(K\x01t" + dtype("O") + b"\x89](K\x01e"),
    "two states": array(b"K\x01(K\x08t" + dtype("u1") + b"\x89" + EIGHT)
    + b"(K\x01(K\x08t"
    + dtype("u1")
    + b"\x89"
    + EIGHT
    + b"tb",
    "no state": RECONSTRUCT + b"(" + NDARRAY + b"(K\0tC\x01btR",
    "dates": frombuffer(dtype("M8[ns]")),
    "strings": frombuffer(dtype("U2")),
    "a type by a list": DTYPE + b"(](" + text("u1") + b"e\x89\x88tR",
    "attributes of a name": b"c_codecs\nencode\n(N}X\x0c\0\0\0__defaults__K\x01stb",
    "an instance": b"(cnumpy\nndarray\no",
    "a new object": NDARRAY + b"(K\x01t\x81",
    "an extension": b"\x82\x01",
    "an identity": b"Pname\n",
    "another buffer": b"\x97",
    "a set": b"\x8f(K\x01\x90",
    "keys that are numbers": b"}K\x01K\x01s",
    "open tuples": b"(" * 100_000 + b"t",
    "open lists": b"]" + b"(]" * 200_000,
    "bytes of 1 TB": b"\x8e" + struct.pack("<Q", 1 << 40) + b"x",
    "a bytearray of 1 TB": b"\x96" + struct.pack("<Q", 1 << 40) + b"x",
    "a text of 1 TB": b"\x8d" + struct.pack("<Q", 1 << 40) + b"x",
    "a number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "a value that is not there": b"h\x07",
    "nothing": b"0" * 10,
    "an unknown instruction": b"\xff",
}


def forged(kind):
    return b"\x80\x04}" + text("data") + FORGED[kind] + b"s."


@pytest.mark.parametrize("kind", FORGED)
def test_forged_pickles_are_refused_in_one_line(kind):
    with pytest.raises(ValueError, match="batch: expected a pickled dict of arrays, got") as caught:
        unpickle("batch", forged(kind))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_memo_of_34_gb_takes_one_place():
    assert unpickle("batch", b"\x80\x04}" + text("data") + b"]r\xff\xff\xff\x7fs.") == {"data": []}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("code", ["u1", "i8", "<f4", ">i2", "?"])
def test_arrays_of_every_protocol(protocol, code):
    content = {
        "data": np.arange(24).reshape(2, 3, 4).astype(code),
        b"columns": np.asfortranarray(np.arange(6).reshape(2, 3).astype(code)),
        "numbers": list(np.arange(3).astype(code)),
        "others": [1, -2, 3.5, True, None, 2**70, "text", b"bytes", (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {"a": []}],
    }
    got = unpickle("batch", pickle.dumps(content, protocol))
    for key in ("data", "columns"):
        expected = content.get(key, content.get(key.encode()))
        np.testing.assert_array_equal(got[key], expected)
        assert got[key].dtype == expected.dtype
    assert got["numbers"] == [value.item() for value in content["numbers"]]
    assert got["others"] == content["others"]


def test_strings_of_python_2():
    old = b"(dp0\nS'data'\np1\nS'\\xff\\n\\x00a'\np2\nsS'n'\nI01\nsS'big'\nL12L\ns."
    assert unpickle("batch", old) == {"data": "\xff\n\0a", "n": True, "big": 12}


def test_lists_that_share_cost_what_they_take():
    """2^64 elements, if somebody walked through them."""
    steps = b"".join(b"](h%ch%ceq%c0" % (i, i, i + 1) for i in range(64))
    got = unpickle("batch", b"\x80\x02}" + text("data") + b"]q\x000" + steps + b"h\x40s.")
    assert len(got["data"]) == 2
    assert got["data"][0] is got["data"][1]


def test_instructions_count():
    with pytest.raises(TooLargeError, match=r"batch: expected at most 0\.1 GiB in memory"):
        unpickle("batch", b"\x80\x02}" + text("data") + b"(" + b"]" * 2_000_000 + b"ls.", Budget(0.1))


def test_a_name_of_tuples_within_tuples_is_refused_at_once():
    """Its text would be 2^40 times as long as the pickle."""
    nested = b"".join(b"h" + bytes([level]) + b"h" + bytes([level]) + b"\x86\x94" for level in range(40))
    with pytest.raises(ValueError, match="got a name that is no text"):
        unpickle("x", b"\x80\x04]\x94" + nested + b"\x8c\x01x\x93.")


def test_a_text_that_becomes_bytes_many_times_is_counted_each_time():
    content = "a" * (1 << 20)
    body = b"c_codecs\nencode\nq\0" + text(content) + b"\x85q\x01(" + b"h\0h\x01R" * 100 + b"l."
    with pytest.raises(TooLargeError, match=r"^x: expected at most 0\.0\d+ GiB in memory"):
        unpickle("x", b"\x80\x02" + body, Budget(1 / 64))
