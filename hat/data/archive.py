"""Read the files of a folder or an archive one by one. Nothing is ever extracted to disk."""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

MAX_DEPTH = 5
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")

Entry = tuple[tuple[str, ...], Callable[[], bytes] | None]


def is_archive(path: Path) -> bool:
    """Whether the file name has a suffix of an archive that `entries` can read."""
    return path.name.lower().endswith(SUFFIXES)


def entries(path: Path) -> Iterator[Entry]:
    """Walk through the files and folders inside a folder or an archive.

    Hidden files, and the files that macOS adds, are left out. A name in an archive is only a label: nothing is written
    to disk, so a name such as `../x` does no harm.

    Args:
        path: a folder, zip, tar, tar.gz, tar.xz or tar.bz2.

    Yields:
        (path inside as a tuple of names, function that reads the bytes). A folder has None instead of the function. In
        a tar, call the function before you take the next entry.

    Raises:
        ValueError: the archive is truncated or of another kind; the message names the archive. The function that reads
            the bytes raises the same error.
    """
    walk = _folder if path.is_dir() else _zip if path.name.lower().endswith(".zip") else _tar
    with _damage_named(path):
        for names, read in walk(path):
            if names and not any(n.startswith((".", "__MACOSX")) for n in names):
                yield names, None if read is None else partial(_read, path, read)


def _read(path: Path, read: Callable[[], bytes]) -> bytes:
    with _damage_named(path):
        return read()


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path}: expected a whole zip or tar archive, got a damaged one ({error})") from error


def _split(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _folder(path: Path) -> Iterator[Entry]:
    for folder, folders, files in os.walk(path, followlinks=True):
        inside = Path(folder).relative_to(path).parts
        folders[:] = sorted(folders) if len(inside) < MAX_DEPTH else []
        if inside:
            yield inside, None
        for file in sorted(files):
            yield (*inside, file), (Path(folder) / file).read_bytes


def _zip(path: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            yield _split(info.filename), None if info.is_dir() else partial(_from_zip, archive, info)


def _from_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except (RuntimeError, NotImplementedError) as error:  # zipfile wants a password, or does not know the compression
        raise zipfile.BadZipFile(str(error)) from error


def _tar(path: Path) -> Iterator[Entry]:
    with tarfile.open(path) as archive:
        for info in archive:
            if info.isdir():
                yield _split(info.name), None
            elif info.isreg():
                yield _split(info.name), partial(_from_tar, archive, info)
        if path.name.lower().endswith(".tar") and not _has_end(path):
            raise tarfile.ReadError("its end is missing")


def _from_tar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    assert file is not None  # `info` is a regular file
    return file.read()


def _has_end(path: Path) -> bool:
    """Whether a plain tar ends in its two blocks of zeros. (A compressed tar has a checksum instead.)"""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return not any(file.read())
