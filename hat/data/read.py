"""Read a user's own data: choose the reader by the files at a path."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hat.data.archive import SUFFIXES, entries, is_archive
from hat.data.cache import cached
from hat.data.cifar import holds_cifar, read_cifar
from hat.data.dataset import Dataset
from hat.data.idx import idx_files, read_idx_folder
from hat.data.images import is_image, read_images
from hat.data.limits import MAX_GIB, Budget
from hat.data.mat import FILES, read_svhn
from hat.data.npz import read_npz


def read(
    path: str | Path, name: str | None = None, *, size: tuple[int, int] | None = None, max_gib: float = MAX_GIB
) -> Dataset:
    """Read the dataset at `path`.

    The decoded images of an archive are kept in the user's cache.

    Args:
        path: one of
            - a `.npz` file with x_train, y_train, x_test, y_test,
            - a folder with idx files (plain or gzip), CIFAR python batches, or the two `.mat` files of SVHN,
            - a folder or an archive (zip, tar, tar.gz, tar.xz) of images, one folder a class,
            - a `.tar.gz` of CIFAR batches.
        name: of the dataset; None takes the name of the file or folder.
        size: (H, W) to resize images in folders and archives to.
        max_gib: the most that the data may take in memory, and unpacked, in GiB; see `hat.data.load`.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: no reader knows the file, or its reader refuses it; the message names the file.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    name = name or _stem(path)
    if path.is_dir():
        return _read_folder(path, name, size, max_gib)
    if path.suffix.lower() == ".npz":
        return read_npz(path, name, max_gib=max_gib)
    if is_archive(path):
        if _is_cifar_archive(path, max_gib):
            return read_cifar(path, name, max_gib=max_gib)
        decode = partial(read_images, path, name, size=size, max_gib=max_gib)
        return cached(path, name, f"images {size}", decode, max_gib)
    raise ValueError(f"{path}: expected a folder, an .npz file or an archive ({' '.join(SUFFIXES)})")


def _read_folder(path: Path, name: str, size: tuple[int, int] | None, max_gib: float) -> Dataset:
    files = {entry.name for entry in path.iterdir() if entry.is_file()}
    if idx_files(path):
        return read_idx_folder(path, name, max_gib=max_gib)
    if holds_cifar(files):
        return read_cifar(path, name, max_gib=max_gib)
    if files & set(FILES):
        return read_svhn(path, name, max_gib=max_gib)
    return read_images(path, name, size=size, max_gib=max_gib)


def _stem(path: Path) -> str:
    lower = path.name.lower()
    suffix = next((s for s in (".npz", *SUFFIXES) if lower.endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)] or path.resolve().name


def _is_cifar_archive(path: Path, max_gib: float) -> bool:
    """Whether a file of the CIFAR batches comes before any image. So the archive need not be unpacked as a whole."""
    for names, content in entries(path, Budget(max_gib)):
        if content is not None:
            if is_image(names[-1]) or len(names) > 2:
                return False
            if names[-1] in ("data_batch_1", "test_batch", "batches.meta", "meta"):
                return True
    return False
