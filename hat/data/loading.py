"""Load a dataset by its name or its path, and list the names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hat.arguments import check_type
from hat.data.catalogue import CATALOGUE, Source
from hat.data.dataset import Dataset, check_size
from hat.data.download import download
from hat.data.limits import MAX_GIB, Budget, TooLargeError
from hat.data.location import checked_path, chosen_root, download_folder
from hat.data.read import read


@dataclass(frozen=True)
class SourceStatus:
    """A dataset with a name, and whether its files are on this machine.

    Attributes:
        name: what `load` calls the dataset.
        about: one line that describes the images.
        status: "bundled" (comes with a package), "here" (at `path`), "download" (downloaded on first use) or "missing".
        path: where the dataset is, or None.
    """

    name: str
    about: str
    status: str
    path: Path | None

    def __str__(self) -> str:
        return f"{self.name:<14} {self.status:<9} {self.about}" + (f" ({self.path})" if self.path else "")


def sources(root: str | Path | None = None) -> tuple[SourceStatus, ...]:
    """Every dataset that `load` knows by name, and where its files are. Nothing is read or downloaded."""
    chosen = chosen_root(root)
    folder = chosen or download_folder()
    statuses = []
    for source in CATALOGUE.values():
        path = source.find(folder, system=chosen is None) if source.places else None
        absent = "download" if source.remotes and chosen is None else "missing"
        status = "bundled" if not source.places else "here" if path else absent
        statuses.append(SourceStatus(source.name, source.about, status, path))
    return tuple(statuses)


def load(
    dataset: str | Path,
    root: str | Path | None = None,
    *,
    size: tuple[int, int] | None = None,
    max_gib: float = MAX_GIB,
) -> Dataset:
    """Load a dataset by its name or its path.

    Args:
        dataset: a name that `sources()` lists (`-`, `_` and case do not matter), or the path of a user's own data: an
            `.npz` file, an archive or a folder of images, a folder of idx files or of CIFAR batches. If a name and a
            path are equal, the name is taken; write `./mnist` for a folder called mnist.
        root: the data root (`--data`); see `hat.data.root`. If the user names a root (here or by `HAT_DATA`), only this
            root is searched. If not, a dataset that is not found is downloaded to the user's cache and verified.
        size: (H, W) to resize the images of a user's own folder or archive to.
        max_gib: the most that the dataset may take in memory, and unpacked, in GiB, > 0. It protects from files that
            unpack to far more than their size. Loading takes less than twice as much for a short time. Images that are
            resized may be more than that before, up to 100 times the size of the files.

    Raises:
        TypeError: `dataset` or `root` is no str or Path.
        FileNotFoundError: a file or folder is missing; the message says how to get it.
        ValueError: a file is damaged or holds more than `max_gib`, or `size` was given for a named dataset; the message
            names the file or option.
        ConnectionError: a download failed; the message says how to get the file by hand.
        ImportError: a package of the `data` extra is missing.
    """
    check_type("dataset", dataset, (str, Path), "a name, a path or a hat.data.Dataset")
    check_size(size)
    Budget(max_gib)  # refuses a wrong limit
    source = _named(dataset) if isinstance(dataset, str) else None
    if source is not None:
        if size is not None:
            raise ValueError(f"size: expected None for the named dataset {source.name!r}, got {size}")
        return _load_source(source, root, max_gib)
    path = checked_path("dataset", dataset)
    if not path.exists() or dataset == "":
        raise FileNotFoundError(
            f"dataset: expected one of {', '.join(CATALOGUE)}, or the path of a file or folder; got {str(dataset)!r}"
        )
    return read(path, size=size, max_gib=max_gib)


def resolve(
    dataset: str | Path | Dataset,
    root: str | Path | None,
    size: tuple[int, int] | None = None,
    max_gib: float = MAX_GIB,
) -> Dataset:
    """The dataset itself if it is a `Dataset`; otherwise load it by its name or path.

    Args:
        dataset: a Dataset, a name or a path.
        root: as in `load`.
        size: (H, W) to resize a user's own images to, which may differ in size. A named dataset ignores it, as its
            images have one size.
        max_gib: as in `load`.
    """
    if isinstance(dataset, Dataset):
        return dataset
    return load(dataset, root, size=None if is_name(dataset) else size, max_gib=max_gib)


def is_name(dataset: str | Path) -> bool:
    """Whether `load` takes `dataset` for a name rather than a path."""
    return isinstance(dataset, str) and _named(dataset) is not None


def _named(text: str) -> Source | None:
    key = text.lower().replace("_", "-")
    if key in CATALOGUE:
        return CATALOGUE[key]
    return {name.replace("-", ""): source for name, source in CATALOGUE.items()}.get(key.replace("-", ""))


def _load_source(source: Source, root: str | Path | None, max_gib: float) -> Dataset:
    if not source.places:
        return source.open(Path(), max_gib)
    chosen = chosen_root(root)
    folder = chosen or download_folder()
    path = source.find(folder, system=chosen is None)
    unfinished = folder / source.name == path and chosen is None  # in the cache: a download may have been cut short
    if source.remotes and chosen is None and (path is None or unfinished):
        download(source.remotes, folder / source.name)
        path = source.find(folder, system=True)
    if path is None:
        hint = "" if chosen is None or not source.remotes else "; without --data and HAT_DATA, hat downloads it"
        how = f"{source.how_to_get(folder)}{hint}"
        raise FileNotFoundError(f"{folder / source.places[0]}: no such file or folder; {how}")
    try:
        return source.open(path, max_gib)
    except TooLargeError:
        raise
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{error}; {source.how_to_get(folder)}") from error
