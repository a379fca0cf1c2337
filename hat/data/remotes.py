"""Addresses and checksums of the downloads of the named datasets."""

from __future__ import annotations

from hat.data.download import Remote

_IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def _idx(bases: tuple[str, ...], md5s: tuple[str, ...]) -> tuple[Remote, ...]:
    files = [f"{stem}-ubyte.gz" for stem in _IDX]
    return tuple(
        Remote(file, tuple(base + file for base in bases), md5, gzip=True)
        for file, md5 in zip(files, md5s, strict=True)
    )


MNIST = _idx(
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
)

FASHION_MNIST = _idx(
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
)


def _file(base: str, file: str, md5: str) -> Remote:
    return Remote(file, (base + file,), md5)


_TORONTO = "https://www.cs.toronto.edu/~kriz/"
CIFAR10 = (_file(_TORONTO, "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),)
CIFAR100 = (_file(_TORONTO, "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),)

_STANFORD = "http://ufldl.stanford.edu/housenumbers/"
SVHN = (
    _file(_STANFORD, "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
    _file(_STANFORD, "test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
)
