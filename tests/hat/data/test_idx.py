import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

import hat.data as data
from hat.data.idx import read_idx, read_idx_folder

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx_bytes(array, code=0x08):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path, arrays):
    """Thirty training and nine test images of 5x4; the labels of the test part are gzip."""
    for images, labels, n in ((IMAGES, LABELS, 30), (TEST_IMAGES, TEST_LABELS, 9)):
        x, y = arrays(n, seed=n)
        (tmp_path / images).write_bytes(idx_bytes(x))
        (tmp_path / labels).write_bytes(idx_bytes(y.astype(np.uint8)))
    plain = tmp_path / TEST_LABELS
    (tmp_path / (TEST_LABELS + ".gz")).write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return tmp_path


@pytest.mark.parametrize(
    ("code", "dtype"), [(0x08, ">u1"), (0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_every_number_type_plain_and_gzip(tmp_path, code, dtype, pack):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "file"
    path.write_bytes(pack(idx_bytes(array, code)))
    got = read_idx(path)
    assert got.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(got, array)


def test_folder_becomes_a_dataset(folder, arrays):
    ds = data.load(folder)
    assert (ds.input_shape, len(ds.x_train), len(ds.x_test), ds.classes) == ((1, 5, 4), 30, 9, ("0", "1", "2"))
    np.testing.assert_array_equal(ds.x_train[:, 0].numpy(), arrays(30, seed=30)[0])
    np.testing.assert_array_equal(ds.y_test.numpy(), np.arange(9) % 3)


def test_labels_that_start_at_one_keep_their_names(folder):
    for name, n in ((LABELS, 30), (TEST_LABELS, 9)):
        (folder / name).write_bytes(idx_bytes((np.arange(n) % 3 + 1).astype(np.uint8)))
    ds = data.load(folder)
    assert ds.classes == ("1", "2", "3")
    assert ds.y_train.min() == 0


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("cut", [1, 30, 595])
def test_truncated_file_is_named(folder, pack, cut):
    whole = pack((folder / IMAGES).read_bytes())
    (folder / IMAGES).write_bytes(whole[:-cut])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte: expected .* got"):
        data.load(folder)


def test_wrong_magic_is_named(folder):
    (folder / IMAGES).write_bytes(b"\x89PNG" + bytes(100))
    with pytest.raises(ValueError, match=r"train-images.*expected an idx file"):
        data.load(folder)


def test_empty_file_is_named(folder):
    (folder / IMAGES).write_bytes(b"")
    with pytest.raises(ValueError, match=r"train-images.*expected an idx file"):
        data.load(folder)


def test_label_and_image_counts_must_agree(folder):
    (folder / LABELS).write_bytes(idx_bytes(np.zeros(29, np.uint8)))
    with pytest.raises(ValueError, match=r"train-labels.*expected 30 labels.* got 29"):
        data.load(folder)


def test_label_file_in_place_of_images_is_named(folder):
    (folder / IMAGES).write_bytes((folder / LABELS).read_bytes())
    with pytest.raises(ValueError, match=r"train-images.*expected 3 dimensions"):
        data.load(folder)


def test_missing_file_is_named(folder):
    (folder / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=r"train-labels-idx1-ubyte"):
        data.load(folder)


def test_missing_part_is_named_where_both_are_needed(folder):
    (folder / TEST_IMAGES).unlink()
    (folder / (TEST_LABELS + ".gz")).unlink()
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte"):
        read_idx_folder(folder, "two", both_parts=True)


def test_checksum_is_of_the_unpacked_bytes(tmp_path):
    raw = idx_bytes(np.arange(4, dtype=np.uint8))
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(raw))
    read_idx(path, hashlib.md5(raw).hexdigest())
    with pytest.raises(ValueError, match=r"file.gz: expected unpacked bytes with md5 00, got md5"):
        read_idx(path, "00")


def test_one_part_is_cut_in_two_by_distinct_image(tmp_path, arrays):
    x, y = arrays(40, classes=2)
    x[20:30] = x[0:10]  # each copy has the label of its original
    (tmp_path / TEST_IMAGES).write_bytes(idx_bytes(x))
    (tmp_path / TEST_LABELS).write_bytes(idx_bytes(y.astype(np.uint8)))
    ds = data.load(tmp_path)
    assert len(ds.x_train) + len(ds.x_test) == 40
    assert set(ds.y_test.tolist()) == {0, 1}
    train, test = ({bytes(i.numpy()) for i in part} for part in (ds.x_train, ds.x_test))
    assert not train & test
    again = data.load(tmp_path)
    assert torch.equal(again.x_test, ds.x_test)
