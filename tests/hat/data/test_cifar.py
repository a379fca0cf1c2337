import io
import os
import pickle
import tarfile

import numpy as np
import pytest

import hat.data as data
from hat.data.unpickling import unpickle

TEN = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def batch(n, key, classes, seed, protocol=2):
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (n, 3072), dtype=np.uint8)
    return pickle.dumps({"data": pixels, key: [i % classes for i in range(n)]}, protocol=protocol)


def cifar10(protocol=2):
    files = {name: batch(6, "labels", 3, seed, protocol) for seed, name in enumerate(TEN)}
    return files | {"batches.meta": pickle.dumps({"label_names": ["airplane", "automobile", "bird"]}, 2)}


def cifar100():
    files = {name: batch(8, "fine_labels", 4, seed) for seed, name in enumerate(("train", "test"))}
    return files | {"meta": pickle.dumps({"fine_label_names": ["apple", "baby", "bear", "bed"]}, 2)}


def write(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def pack(path, top, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_cifar10_folder(tmp_path, protocol):
    files = cifar10(protocol)
    ds = data.load(write(tmp_path / "mine", files))
    assert ds.classes == ("airplane", "automobile", "bird")
    assert (len(ds.x_train), len(ds.x_test), ds.input_shape) == (30, 6, (3, 32, 32))
    first = pickle.loads(files["data_batch_1"])["data"][0].reshape(3, 32, 32)
    np.testing.assert_array_equal(ds.x_train[0].numpy(), first)
    assert ds.y_test.tolist() == [0, 1, 2, 0, 1, 2]


def test_python_2_pickle_with_byte_keys(tmp_path):
    """The official files were pickled by Python 2: their strings are bytes, their arrays numpy.core's."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    modern = pickle.dumps({b"data": pixels, b"labels": [0, 1]}, 2)
    official = modern.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    content = unpickle("batch", official)
    np.testing.assert_array_equal(content["data"], pixels)
    assert content["labels"] == [0, 1]


@pytest.mark.parametrize("files", [cifar10(), cifar100()], ids=["cifar10", "cifar100"])
def test_archive_equals_folder(tmp_path, files):
    folder = data.load(write(tmp_path / "a" / "same", files))
    archive = data.load(pack(tmp_path / "same.tar.gz", "batches-py", files))
    assert archive.name == folder.name == "same"
    assert archive.classes == folder.classes
    for key in ("x_train", "y_train", "x_test", "y_test"):
        assert getattr(archive, key).equal(getattr(folder, key))


def test_cifar100_has_fine_labels(tmp_path):
    ds = data.load("cifar100", root=write(tmp_path / "cifar100" / "cifar-100-python", cifar100()).parent.parent)
    assert ds.classes == ("apple", "baby", "bear", "bed")
    assert ds.y_train.tolist() == [0, 1, 2, 3] * 2


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"echo executed > {self.target}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_malicious_pickle_is_refused_and_not_executed(tmp_path, protocol):
    files = cifar10()
    target = tmp_path / "executed"
    files["data_batch_3"] = pickle.dumps({"data": Malicious(target), "labels": []}, protocol)
    folder = write(tmp_path / "cifar", files)
    with pytest.raises(ValueError, match=r"data_batch_3: .*refused .*system"):
        data.load(folder)
    assert not target.exists()


@pytest.mark.parametrize("name", ["load", "ctypeslib.load_library", "exec_command", "ndarray.tofile"])
def test_other_names_of_numpy_are_refused(name):
    harmful = f"cnumpy\n{name}\n(S'x'\ntR.".encode()
    with pytest.raises(ValueError, match="refused"):
        unpickle("batch", harmful)


def test_missing_batch_is_named(tmp_path):
    files = cifar10()
    del files["data_batch_4"]
    with pytest.raises(FileNotFoundError, match="data_batch_4"):
        data.load(write(tmp_path / "cifar", files))


def test_truncated_batch_is_named(tmp_path):
    files = cifar10()
    files["test_batch"] = files["test_batch"][:-40]
    with pytest.raises(ValueError, match="test_batch: expected a pickled dict"):
        data.load(write(tmp_path / "cifar", files))


def test_truncated_archive_is_named(tmp_path):
    path = pack(tmp_path / "c.tar.gz", "cifar-10-batches-py", cifar10())
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match=r"c.tar.gz: expected a whole"):
        data.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((2, 3000), np.uint8), "labels": [0, 1]}, r"expected 'data' uint8 \(N, 3072\)"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]}, r"expected 'data' uint8 \(N, 3072\)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "a list of 2 integers, got 1 values"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "a list of 2 integers, got NoneType"),
        ([1, 2], "expected a pickled dict of arrays, got a list"),
    ],
)
def test_wrong_content_is_named(tmp_path, content, message):
    files = cifar10() | {"data_batch_1": pickle.dumps(content, 2)}
    with pytest.raises(ValueError, match=f"data_batch_1: .*{message}"):
        data.load(write(tmp_path / "cifar", files))


def test_official_batches_come_before_the_jpeg_archive(tmp_path):
    write(tmp_path / "cifar10" / "cifar-10-batches-py", cifar10())
    (tmp_path / "cifar10" / "cifar10_jpeg.tar.xz").write_bytes(b"never read")
    assert data.load("cifar10", root=tmp_path).name == "cifar10"


def test_archive_of_that_name_with_other_bytes_is_refused(tmp_path):
    (tmp_path / "cifar10").mkdir()
    pack(tmp_path / "cifar10" / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar10())
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz: expected bytes with md5 c58f.*to get cifar10"):
        data.load("cifar10", root=tmp_path)
