"""Files that unpack to more than the limit, or claim to, are refused in one line, and memory stays below twice it."""

import ctypes
import gc
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import hat.data as data
from hat.data.limits import GIB, Budget, TooLargeError, Unpacking, opened
from tests.hat.data import bombs

MAX_GIB = 1 / 32
CLEAR = Path("/proc/self/clear_refs")  # "5" sets the peak of the memory to what it is now
SLACK_MIB = 24  # of the interpreter and of code that is imported only now

pillow = pytest.importorskip("PIL.Image")


def status_mib(key):
    return (
        next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if key in line) / 1024
    )


def peak_mib(call):
    """How far the memory of the process rises while `call` runs; 0 where the system does not say."""
    if not os.access(CLEAR, os.W_OK):
        call()
        return 0
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5")
    before = status_mib("VmRSS")
    call()
    return status_mib("VmHWM") - before


def load_refused(path, **how):
    with pytest.raises(ValueError, match="expected") as caught:
        data.load(path, max_gib=MAX_GIB, **how)
    return caught.value


@pytest.mark.parametrize("name", bombs.BOMBS)
def test_bomb_is_refused_in_one_line_and_little_memory(tmp_path, name):
    path = bombs.BOMBS[name](tmp_path)
    errors = []
    rise = peak_mib(lambda: errors.append(load_refused(path, size=(8, 8) if name == "zip_many_resized" else None)))
    (error,) = errors
    assert "\n" not in str(error)
    assert str(tmp_path) in str(error)
    assert isinstance(error, TooLargeError) == ("max_gib raises the limit" in str(error))
    assert rise < 2 * MAX_GIB * 1024 + SLACK_MIB


@pytest.mark.parametrize("parts", [1, 2])
def test_memory_of_data_that_nearly_fills_the_limit(tmp_path, parts):
    draw = np.random.default_rng(0)
    folders = ["a", "b"] if parts == 1 else ["train/a", "train/b", "test/a", "test/b"]
    names = [f"{folder}/{i}.bmp" for folder in folders for i in range(40)]
    members = []
    for name in names:
        pixels = draw.integers(0, 256, (300, 300, 3) if parts == 1 else (212, 212, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        pillow.fromarray(pixels).save(buffer, "BMP")
        members.append((name, buffer.getvalue()))
    path = bombs.zip_of(tmp_path / "x.zip", members, zipfile.ZIP_STORED)
    del members
    assert peak_mib(lambda: data.load(path, max_gib=MAX_GIB)) < 2 * MAX_GIB * 1024 + SLACK_MIB


def test_a_higher_limit_reads_what_the_lower_one_refuses(tmp_path):
    image = bombs.png(1000, 1000)
    members = [(f"{part}/{name}/{i}.png", image) for part in ("train", "test") for name in "ab" for i in range(12)]
    path = bombs.zip_of(tmp_path / "x.zip", members)
    assert "x.zip: " in str(load_refused(path))
    assert data.load(path, max_gib=0.25).input_shape == (1, 1000, 1000)
    assert "x.zip: " in str(load_refused(path))  # the cache of the decoded images is held to the limit, too
    assert data.split(path, 1, size=(8, 8), max_gib=0.25).input_shape == (1, 8, 8)


@pytest.mark.parametrize("make", [data.permuted, data.split, lambda d, **how: data.mixture([d], **how)])
def test_normalised_images_count_too(make_dataset, make):
    ds = make_dataset(shape=(1, 64, 64))
    assert len(make(ds, max_gib=0.0005)) > 0  # in its own size, the user's own dataset is not too large
    with pytest.raises(
        ValueError, match=r"made: 80 images of \(1, 100000, 100000\) in float32: expected at most 2 GiB"
    ):
        make(ds, size=(100_000, 100_000))


def test_permutations_count_too(make_dataset):
    for tasks in (10**7, 10**30):
        with pytest.raises(ValueError, match="tasks: the permutations: expected at most 2 GiB in memory, got"):
            data.permuted(make_dataset(), tasks)


def test_mixture_of_a_small_and_a_large_dataset(make_dataset):
    small, large = make_dataset(train=600, name="small"), make_dataset(8, 4, shape=(1, 512, 512), name="large")
    with pytest.raises(ValueError, match=r"small: 620 images of \(1, 512, 512\) in float32"):
        data.mixture([small, large], max_gib=0.1)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "2", None, True])
def test_limit_is_checked(make_dataset, wrong):
    for call in (data.permuted, data.split, lambda d, **how: data.mixture([d], **how)):
        with pytest.raises(ValueError, match="max_gib: expected a finite number > 0"):
            call(make_dataset(), max_gib=wrong)
    with pytest.raises(ValueError, match="max_gib: expected a finite number > 0"):
        data.load("digits", max_gib=wrong)


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(ValueError, match=r"x\.zip: expected a regular file"):
        data.load(tmp_path / "x.zip")
    (tmp_path / "folder" / "a").mkdir(parents=True)
    os.mkfifo(tmp_path / "folder" / "a" / "0.png")
    with pytest.raises(ValueError, match=r"0\.png: expected a regular file"):
        data.load(tmp_path / "folder")
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte").symlink_to("/dev/zero")
    (tmp_path / "idx" / "train-labels-idx1-ubyte").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="train-images-idx3-ubyte: expected a regular file"):
        data.load(tmp_path / "idx")


def test_encrypted_zip_is_named(tmp_path):
    path = bombs.zip_of(tmp_path / "x.zip", [("a/0.png", bombs.png(8, 8))])
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"x\.zip: a/0\.png: expected a member without a password"):
        data.load(path)


def test_progressive_jpeg_with_many_scans(tmp_path):
    jpeg = b"\xff\xd8\xff\xc2" + b"\xff\xda\0\1" * 1000
    path = bombs.zip_of(tmp_path / "x.zip", [("a/0.jpg", jpeg)])
    with pytest.raises(ValueError, match=r"a/0\.jpg: expected an 8-bit image, got a JPEG with more than 200 scans"):
        data.load(path)


def test_formats_that_call_other_programs_are_refused(tmp_path):
    path = bombs.zip_of(tmp_path / "x.zip", [("a/0.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")])
    with pytest.raises(ValueError, match=r"a/0\.png: expected an 8-bit image \(PNG, JPEG, "):
        data.load(path)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bytes])
def test_every_packing_is_unpacked_as_a_whole(tmp_path, pack):
    content = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
    path = tmp_path / "file"
    path.write_bytes(pack(content) + (pack(b"more") if pack is not gzip.compress else b""))
    with opened(path, Budget(), unpack=True) as stream:
        assert b"".join(iter(lambda: stream.read(70_001), b"")) == content + (
            b"more" if pack is not gzip.compress else b""
        )


def test_xz_that_wants_much_memory_is_refused(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    (tmp_path / "x").write_bytes(lzma.compress(b"x" * 100, filters=filters))
    with opened(tmp_path / "x", Budget(0.5), unpack=True) as stream, pytest.raises(TooLargeError, match="x: expected"):
        stream.read(10)


def test_stream_goes_forward_only(tmp_path):
    (tmp_path / "x").write_bytes(bytes(100))
    with (tmp_path / "x").open("rb") as file:
        stream = Unpacking(file, "x", Budget())
        stream.seek(50)
        assert (stream.tell(), len(stream.read(100))) == (50, 50)
        for call in (lambda: stream.seek(20), lambda: stream.read(-1), lambda: stream.read(1 << 40)):
            with pytest.raises(ValueError, match="expected"):
                call()


def test_large_zip_directory_is_not_read(tmp_path):
    path = bombs.zip_of(tmp_path / "x.zip", [(f"{i:0200}", b"") for i in range(9000)], zipfile.ZIP_STORED)
    with pytest.raises(TooLargeError, match=r"x\.zip: expected at most 0\.005 GiB in memory"):
        data.load(path, max_gib=0.005)


def test_budget_counts():
    budget = Budget(10 / GIB)
    budget.hold("a", 6)
    budget.need("a", 4)
    for call in (lambda: budget.need("b", 5), lambda: budget.hold("b", 5), lambda: budget.allow("b", 11)):
        with pytest.raises(TooLargeError, match="b: expected at most"):
            call()
    budget.packed(1)
    budget.unpack("a", 110)
    with pytest.raises(TooLargeError, match="c: expected at most"):
        budget.unpack("c", 1)


def test_the_labels_of_a_bomb_are_compared_with_its_images_first(tmp_path):
    arrays = {f"x_{part}": np.zeros((2, 4, 4), np.uint8) for part in ("train", "test")}
    arrays |= {f"y_{part}": np.arange(2) for part in ("train", "test")}
    np.savez_compressed(tmp_path / "x.npz", **arrays, classes=np.full(4 << 20, 1000, np.int16))
    with pytest.raises(TooLargeError, match=r"x\.npz: expected at most"):
        data.load(tmp_path / "x.npz", max_gib=1 / 16)


@pytest.mark.parametrize("kind", [tarfile.XGLTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_long_header_of_a_tar_is_refused(tmp_path, kind):
    text = tarfile.TarInfo("text")
    text.type, text.size = kind, 1 << 17
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(text.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 17) + bytes(1024))
    with pytest.raises(ValueError, match=r"x\.tar\.gz: expected a whole zip or tar archive"):
        data.load(tmp_path / "x.tar.gz")


def test_a_tile_of_a_tiff_may_be_larger_than_its_image(tmp_path):
    entries = {256: 4, 257: 4, 258: 8, 259: 8, 262: 1, 277: 1, 322: 30_000, 323: 30_000, 324: 134, 325: 100}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    for name in ("a", "b"):
        (tmp_path / "x" / name).mkdir(parents=True)
        content = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(104)
        (tmp_path / "x" / name / "0.tif").write_bytes(content)
    with pytest.raises(TooLargeError, match=r"0\.tif: expected at most"):
        data.load(tmp_path / "x")
