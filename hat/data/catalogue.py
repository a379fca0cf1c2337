"""The datasets that have a name: where each dataset lies under a data root, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hat.data import classes, remotes
from hat.data.cifar import read_cifar
from hat.data.dataset import Dataset
from hat.data.digits import read_digits
from hat.data.download import Remote, verify
from hat.data.idx import read_idx_folder
from hat.data.mat import read_svhn
from hat.data.npz import read_npz
from hat.data.read import read


@dataclass(frozen=True)
class Source:
    """A dataset with a name.

    Attributes:
        name: what a user calls the dataset.
        about: one line that describes the images.
        places: files and folders under a data root; the first that exists is read. Empty: the data comes with a
            package.
        open: reads the Dataset from its place; its second argument is `max_gib`, as in `hat.data.load`.
        remotes: the files of a download, which go into the folder `name` of the download root.
        system: absolute paths where a system package puts the data.
        by_hand: how a person gets the data, if there is no download.
    """

    name: str
    about: str
    places: tuple[str, ...]
    open: Callable[[Path, float], Dataset]
    remotes: tuple[Remote, ...] = ()
    system: tuple[str, ...] = ()
    by_hand: str = ""

    def find(self, root: Path, system: bool) -> Path | None:
        """The first place that exists: under the root, then (if `system`) among the system's places."""
        candidates = [root / place for place in self.places]
        candidates += [Path(place) for place in self.system if system]
        return next((place for place in candidates if place.exists()), None)

    def how_to_get(self, folder: Path) -> str:
        """One clause for an error message that says which file to put where."""
        if self.remotes:
            urls = ", ".join(remote.urls[0] for remote in self.remotes)
            return f"to get {self.name}, put {urls} in {folder / self.name}"
        return f"to get {self.name}, {self.by_hand}"


def _mnist_like(
    name: str, names: tuple[str, ...], files: tuple[Remote, ...], one_part: bool = False
) -> Callable[[Path, float], Dataset]:
    checksums = {remote.file.removesuffix(".gz"): remote.md5 for remote in files}
    return lambda path, max_gib: read_idx_folder(
        path, name, classes=names, both_parts=not one_part, md5=checksums, max_gib=max_gib
    )


def _cifar(name: str, archive: Remote) -> Callable[[Path, float], Dataset]:
    def open_cifar(path: Path, max_gib: float) -> Dataset:
        if path.name == "cifar10_jpeg.tar.xz":
            return read(path, "cifar10-jpeg", max_gib=max_gib)
        if path.is_file():
            verify(path, archive)
        return read_cifar(path, name, max_gib=max_gib)

    return open_cifar


def _svhn(path: Path, max_gib: float) -> Dataset:
    for remote in remotes.SVHN:
        if (path / remote.file).is_file():  # if the file is missing, read_svhn says so
            verify(path / remote.file, remote)
    return read_svhn(path, max_gib=max_gib)


def _cifar_places(folder: str, unpacked: str, archive: str) -> tuple[str, ...]:
    return (f"{folder}/{unpacked}", unpacked, f"{folder}/{archive}", archive)


_ALL = (
    Source("digits", "handwritten digits, 8x8 grey, bundled with scikit-learn", (), lambda _, max_gib: read_digits()),
    Source(
        "mnist",
        "handwritten digits, 28x28 grey",
        ("mnist", "MNIST/raw"),
        _mnist_like("mnist", classes.DIGITS, remotes.MNIST),
        remotes.MNIST,
    ),
    Source(
        "fashion-mnist",
        "articles of clothing, 28x28 grey",
        ("fashion-mnist", "FashionMNIST/raw"),
        _mnist_like("fashion-mnist", classes.FASHION_MNIST, remotes.FASHION_MNIST),
        remotes.FASHION_MNIST,
        system=("/usr/share/datasets/fashion-mnist",),
    ),
    Source(
        "notmnist",
        "letters A to J in many fonts, 28x28 grey",
        ("notmnist",),
        _mnist_like("notmnist", classes.LETTERS, (), one_part=True),
        by_hand="put idx files (t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz, one part is enough) in "
        "notmnist/ under the data root, or load the author's notMNIST_small.tar.gz by its path",
    ),
    Source(
        "cifar10",
        "animals and vehicles, 32x32 RGB",
        (*_cifar_places("cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz"), "cifar10/cifar10_jpeg.tar.xz"),
        _cifar("cifar10", remotes.CIFAR10[0]),
        remotes.CIFAR10,
    ),
    Source(
        "cifar100",
        "100 classes of things, 32x32 RGB",
        _cifar_places("cifar100", "cifar-100-python", "cifar-100-python.tar.gz"),
        _cifar("cifar100", remotes.CIFAR100[0]),
        remotes.CIFAR100,
    ),
    Source("svhn", "house numbers, 32x32 RGB", ("svhn", "SVHN"), _svhn, remotes.SVHN),
    Source(
        "traffic-signs",
        "German traffic signs (GTSRB), 43 classes, 32x32 RGB",
        ("traffic-signs/gtsrb32_third.npz",),
        lambda path, max_gib: read_npz(path, "traffic-signs", classes=classes.TRAFFIC_SIGNS, max_gib=max_gib),
        by_hand="put gtsrb32_third.npz (x_train, y_train, x_test, y_test; uint8 (N, 32, 32, 3), labels 0..42) in "
        "traffic-signs/ under the data root",
    ),
)

CATALOGUE: dict[str, Source] = {source.name: source for source in _ALL}
