"""Loading a dataset by its name or its path, and listing the names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hat.data.catalogue import CATALOGUE, Source
from hat.data.dataset import Dataset
from hat.data.download import download
from hat.data.location import chosen_root, download_folder
from hat.data.read import read


@dataclass(frozen=True)
class SourceStatus:
    """A dataset with a name, and whether it is here.

    status: "bundled" (with a package), "here" (at `path`), "download" (fetched on first use) or "missing".
    """

    name: str
    about: str
    status: str
    path: Path | None

    def __str__(self) -> str:
        return f"{self.name:<14} {self.status:<9} {self.about}" + (f" ({self.path})" if self.path else "")


def sources(root: str | Path | None = None) -> tuple[SourceStatus, ...]:
    """Every dataset that `load` knows by name, and where it was found. Nothing is read or downloaded."""
    chosen = chosen_root(root)
    folder = chosen or download_folder()
    found = []
    for source in CATALOGUE.values():
        path = source.find(folder, system=chosen is None) if source.places else None
        absent = "download" if source.remotes and chosen is None else "missing"
        status = "bundled" if not source.places else "here" if path else absent
        found.append(SourceStatus(source.name, source.about, status, path))
    return tuple(found)


def load(dataset: str | Path, root: str | Path | None = None, *, size: tuple[int, int] | None = None) -> Dataset:
    """The Dataset of a name or a path.

    dataset: a name that `sources()` lists (`-`, `_` and case do not matter), or the path of a user's own
        data: an `.npz` file, an archive or a folder of images, a folder of idx files or CIFAR batches. A
        name goes before a path; write `./mnist` for a folder called mnist.
    root: the data root (`--data`); see `hat.data.root`. A root that the user named (here or by `HAT_DATA`)
        is searched alone. Otherwise what is not found is downloaded to the user's cache and verified.
    size: (H, W) to resize images in a user's own folder or archive to.

    Raises FileNotFoundError, ValueError or ConnectionError: each names the file, what was expected, and how
    to get it; ImportError when a package of the `data` extra is missing.
    """
    source = _named(dataset) if isinstance(dataset, str) else None
    if source is not None:
        if size is not None:
            raise ValueError(f"size: expected None for the named dataset {source.name!r}, got {size}")
        return _load_source(source, root)
    path = Path(dataset).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"dataset: expected one of {', '.join(CATALOGUE)}, or the path of a file or folder; got {str(dataset)!r}"
        )
    return read(path, size=size)


def resolve(dataset: str | Path | Dataset, root: str | Path | None, size: tuple[int, int] | None = None) -> Dataset:
    """The dataset itself, or what `load` gives for its name or path.

    size: (H, W) for a user's own images, which may differ in size; those of a named dataset do not.
    """
    if isinstance(dataset, Dataset):
        return dataset
    return load(dataset, root, size=None if is_name(dataset) else size)


def is_name(dataset: str | Path) -> bool:
    """Whether `load` takes this for the name of a dataset rather than a path."""
    return isinstance(dataset, str) and _named(dataset) is not None


def _named(text: str) -> Source | None:
    key = text.lower().replace("_", "-")
    if key in CATALOGUE:
        return CATALOGUE[key]
    return {name.replace("-", ""): source for name, source in CATALOGUE.items()}.get(key.replace("-", ""))


def _load_source(source: Source, root: str | Path | None) -> Dataset:
    if not source.places:
        return source.open(Path())
    chosen = chosen_root(root)
    folder = chosen or download_folder()
    path = source.find(folder, system=chosen is None)
    unfinished = folder / source.name == path and chosen is None  # in the cache: a download that was cut short
    if source.remotes and chosen is None and (path is None or unfinished):
        download(source.remotes, folder / source.name)
        path = source.find(folder, system=True)
    if path is None:
        hint = "" if chosen is None or not source.remotes else "; without --data and HAT_DATA it is downloaded"
        how = f"{source.how_to_get(folder)}{hint}"
        raise FileNotFoundError(f"{folder / source.places[0]}: no such file or folder; {how}")
    try:
        return source.open(path)
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{error}; {source.how_to_get(folder)}") from error
