"""The real files, where `HAT_DATA` says that they lie."""

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hat.data as data
from hat.data import remotes
from hat.data.archive import entries
from hat.data.download import verify
from hat.data.limits import Budget

ROOT = Path(os.environ.get("HAT_DATA", "nowhere"))
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="HAT_DATA names no folder")

COUNTS = {
    "mnist": (60000, 10000, (1, 28, 28), 10),
    "fashion-mnist": (60000, 10000, (1, 28, 28), 10),
    "traffic-signs": (13069, 12630, (3, 32, 32), 43),
}


def need(*places):
    for place in places:
        if not (ROOT / place).exists():
            pytest.skip(f"no {place}")


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    need(name)
    ds = data.load(name, root=ROOT)
    train, test, shape, classes = COUNTS[name]
    assert (len(ds.x_train), len(ds.x_test), ds.input_shape, len(ds.classes)) == (train, test, shape, classes)
    assert ds.y_train.unique().numel() == ds.y_test.unique().numel() == classes
    assert ds.name == name


@pytest.mark.parametrize(("name", "files"), [("mnist", remotes.MNIST), ("fashion-mnist", remotes.FASHION_MNIST)])
def test_checksums_of_the_unpacked_bytes(name, files):
    need(name)
    for remote in files:
        verify(ROOT / name / remote.file, remote)
        with pytest.raises(ValueError, match="expected unpacked bytes with md5 00"):
            verify(ROOT / name / remote.file, replace(remote, md5="00"))


def test_notmnist_parts_share_no_image():
    need("notmnist")
    (task,) = data.permuted("notmnist", tasks=1, root=ROOT)
    parts = [{bytes(x.numpy()) for x in p.x} for p in (task.train, task.validation, task.test)]
    assert sum(len(p) for p in (task.train, task.validation, task.test)) == 10000
    assert sum(map(len, parts)) == len(set.union(*parts)) == 9804
    assert task.classes == tuple("ABCDEFGHIJ")


def test_permuted_mnist_as_in_the_paper():
    need("mnist")
    stream = data.permuted("mnist", tasks=2, root=ROOT)
    assert [len(getattr(stream[0], p)) for p in ("train", "validation", "test")] == [51000, 9000, 10000]
    torch.testing.assert_close(stream[1].train.x.mean(), torch.tensor(0.0), atol=5e-3, rtol=0)
    assert sum(len(y) for _, (_, y) in stream[1].epoch(0)) == 51000


def test_mnist_under_the_name_of_fashion_mnist_is_refused(tmp_path):
    need("mnist")
    (tmp_path / "fashion-mnist").symlink_to(ROOT / "mnist")
    with pytest.raises(ValueError, match=r"train-images.*expected unpacked bytes with md5 .*to get fashion-mnist"):
        data.load("fashion-mnist", root=tmp_path)


def need_jpegs():
    need("cifar10/cifar10_jpeg.tar.xz")
    if (ROOT / "cifar10" / "cifar-10-batches-py").exists() or (ROOT / "cifar10" / "cifar-10-python.tar.gz").exists():
        pytest.skip("the official files come first")


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_cifar10_jpeg_archive_and_a_sample_of_it(tmp_path):
    need_jpegs()
    (tmp_path / "cifar10").mkdir()
    counts = {"train": 0, "test": 0}
    with tarfile.open(tmp_path / "cifar10" / "cifar10_jpeg.tar.xz", "w:xz", preset=0) as sample:
        for names, read in entries(ROOT / "cifar10" / "cifar10_jpeg.tar.xz", Budget()):
            if read is not None and names[-1].endswith(".jpg"):
                counts[names[0]] += 1
                if sum(counts.values()) % 100 == 0:
                    info, content = tarfile.TarInfo("/".join(names)), read()
                    info.size = len(content)
                    sample.addfile(info, io.BytesIO(content))
    assert counts == {"train": 50000, "test": 10000}
    ds = data.load("cifar10", root=tmp_path)
    assert (ds.name, ds.classes, len(ds.x_train), len(ds.x_test)) == ("cifar10-jpeg", CIFAR10, 500, 100)


@pytest.mark.slow
def test_cifar10_jpeg_whole(clean_machine):
    need_jpegs()
    ds = data.load("cifar10", root=ROOT)
    assert (ds.name, len(ds.x_train), len(ds.x_test), ds.input_shape) == ("cifar10-jpeg", 50000, 10000, (3, 32, 32))
    assert ds.classes == CIFAR10
    assert ds.y_train.bincount().tolist() == [5000] * 10
