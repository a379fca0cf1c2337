import numpy as np
import pytest

import hat.data as data
from hat.data.mat import read_mat

scipy_io = pytest.importorskip("scipy.io")


def save(path, n, seed=0, **changes):
    draw = np.random.default_rng(seed)
    x = draw.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
    y = (np.arange(n) % 10 + 1).astype(np.uint8)[:, None]  # 1..10, as in the official files
    scipy_io.savemat(path, {"X": x, "y": y} | changes, do_compression=True)
    return x, y


def test_svhn_folder(tmp_path):
    x, y = save(tmp_path / "train_32x32.mat", 20)
    save(tmp_path / "test_32x32.mat", 10, seed=1)
    ds = data.load(tmp_path)
    assert (ds.classes, ds.input_shape) == (tuple("0123456789"), (3, 32, 32))
    assert (len(ds.x_train), len(ds.x_test)) == (20, 10)
    np.testing.assert_array_equal(ds.x_train[7].permute(1, 2, 0).numpy(), x[..., 7])
    assert ds.y_train[:11].tolist() == [*range(1, 10), 0, 1]
    assert y[9] == 10


def test_missing_file_is_named(tmp_path):
    save(tmp_path / "train_32x32.mat", 20)
    with pytest.raises(FileNotFoundError, match=r"test_32x32\.mat"):
        data.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 40, 4000])
def test_truncated_file_is_named(tmp_path, keep):
    save(tmp_path / "test_32x32.mat", 20)
    save(tmp_path / "train_32x32.mat", 20)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train_32x32\.mat: expected a whole \.mat file"):
        data.load(tmp_path)


def test_wrong_content_is_named(tmp_path):
    save(tmp_path / "train_32x32.mat", 20, y=np.zeros((19, 1)))
    with pytest.raises(ValueError, match=r"train_32x32\.mat: expected X uint8 \(H, W, C, N\)"):
        data.load(tmp_path)


def test_other_bytes_under_the_name_are_refused(tmp_path):
    folder = tmp_path / "svhn"
    folder.mkdir()
    save(folder / "train_32x32.mat", 20)
    with pytest.raises(ValueError, match=r"train_32x32\.mat: expected bytes with md5 e26d.*to get svhn"):
        data.load("svhn", root=tmp_path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("code", ["u1", "i4", "f8"])
def test_numbers_are_those_of_scipy(tmp_path, packed, code):
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (3, 4, 3, 1), dtype=np.uint8), np.array([[7]]).astype(code)
    others = {"text": "some", "cell": np.array([1, "a"], dtype=object), "z": 1j * np.ones(3)}
    scipy_io.savemat(tmp_path / "x.mat", others | {"X": x, "y": y}, do_compression=packed)
    images, labels = read_mat(tmp_path / "x.mat")
    np.testing.assert_array_equal(images, x.transpose(3, 0, 1, 2))
    assert labels.tolist() == [7]


def test_damaged_bytes_are_named(tmp_path):
    save(tmp_path / "x.mat", 2)
    raw = (tmp_path / "x.mat").read_bytes()
    for place in range(128, 400):
        damaged = bytearray(raw)
        damaged[place] ^= 0xFF
        (tmp_path / "x.mat").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x\.mat: expected"):
            read_mat(tmp_path / "x.mat")
