"""Read the files of a folder or an archive one by one. Nothing is ever extracted to disk."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

from hat.data.limits import ENTRY, PIECE, Budget, RefusedError, Unpacking, opened, read_at_most
from hat.text import printable
from hat.untrusted.files import in_words

MAX_DEPTH = 5
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
LONGEST_NAME, MOST_FOLDERS = 4096, 100
LONGEST_TEXT = 1 << 16  # bytes of a header of a tar that describes other headers
_TEXTS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
DIRECTORY_ENTRY = 46  # bytes that a member takes at least in the directory of a zip

Entry = tuple[tuple[str, ...], Callable[[], bytes] | None]


def is_archive(path: Path) -> bool:
    """Whether the file name has a suffix of an archive that `entries` can read."""
    return path.name.lower().endswith(SUFFIXES)


def entries(path: Path, budget: Budget) -> Iterator[Entry]:
    """Walk through the files and folders inside a folder or an archive.

    Hidden files, and the files that macOS adds, are left out. A name in an archive is only a label: nothing is written
    to disk, so a name such as `../x` does no harm.

    Args:
        path: a folder, zip, tar, tar.gz, tar.xz or tar.bz2.
        budget: counts the entries and what is unpacked. The bytes that are read are checked; the caller counts those
            that it keeps.

    Yields:
        (path inside as a tuple of names, function that reads the bytes). A folder has None instead of the function. In
        a tar, call the function before you take the next entry.

    Raises:
        ValueError: the archive is truncated or of another kind, or holds more than the budget allows; the message names
            the archive. The function that reads the bytes raises the same errors.
    """
    walk = _folder if path.is_dir() else _zip if path.name.lower().endswith(".zip") else _tar
    with _damage_named(path):
        for names, read in walk(path, budget):
            budget.hold(path, ENTRY + sum(map(len, names)))
            if len(names) > MOST_FOLDERS or sum(map(len, names)) > LONGEST_NAME:
                expected = f"names of at most {LONGEST_NAME} letters in {MOST_FOLDERS} folders"
                raise RefusedError(f"{path}: expected {expected}, got one that begins with {'/'.join(names)[:60]}")
            if names and not any(n.startswith((".", "__MACOSX")) for n in names):
                yield names, None if read is None else partial(_read, path, read)


def _read(path: Path, read: Callable[[], bytes]) -> bytes:
    with _damage_named(path):
        return read()


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, RefusedError):
        raise
    except Exception as error:  # damaged archives raise errors of many classes
        raise ValueError(f"{path}: expected a whole zip or tar archive, got a damaged one") from error


def _split(name: str) -> tuple[str, ...]:
    return tuple(printable(part) for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _folder(path: Path, budget: Budget) -> Iterator[Entry]:
    for folder, folders, files in os.walk(path, onerror=_unreadable, followlinks=True):
        inside = tuple(map(printable, Path(folder).relative_to(path).parts))
        folders[:] = sorted(folders) if len(inside) < MAX_DEPTH else []
        if inside:
            yield inside, None
        for file in sorted(files):
            yield (*inside, printable(file)), partial(_from_folder, Path(folder) / file, budget)


def _unreadable(error: OSError) -> NoReturn:
    raise RefusedError(f"{error.filename}: expected a folder that can be read, got {in_words(error)}") from error


def _from_folder(path: Path, budget: Budget) -> bytes:
    with opened(path, budget) as file:
        size = path.stat().st_size
        budget.need(path, size)
        return read_at_most(file, size)


class _Directory:
    """A zip file whose directory is not longer than the budget allows. zipfile reads the directory at once."""

    def __init__(self, file: IO[bytes], path: Path, budget: Budget) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file, self._path, self._budget = file, path, budget

    def read(self, size: int = -1) -> bytes:
        if size > PIECE:
            self._budget.need(self._path, size // DIRECTORY_ENTRY * ENTRY)
        return self._file.read(size)


def _zip(path: Path, budget: Budget) -> Iterator[Entry]:
    with opened(path, budget) as file, zip_file(file, path, budget) as archive:
        for info in archive.infolist():
            yield _split(info.filename), None if info.is_dir() else partial(_from_zip, archive, info, path, budget)


def zip_file(file: IO[bytes], path: Path, budget: Budget) -> zipfile.ZipFile:
    """Open a zip whose directory fits into the budget."""
    return zipfile.ZipFile(_Directory(file, path, budget))


def _from_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, budget: Budget) -> bytes:
    where = f"{path}: {printable(info.filename)}"
    budget.need(where, info.file_size)
    with zip_member(archive, info, where, budget) as stream:
        return read_at_most(stream, info.file_size + 1)  # the end is read, too: there zipfile checks the checksum


@contextmanager
def zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str, budget: Budget) -> Iterator[Unpacking]:
    """Open a member of a zip to read it.

    Raises:
        ValueError: it is encrypted or compressed in an unknown way; the message names `where`.
    """
    if info.flag_bits & 1:
        raise RefusedError(f"{where}: expected a member without a password, got an encrypted one")
    # zipfile unpacks bzip2 and lzma without a limit: 4 kB of the file become 80 MB at most, 1 MB would become 20 GB.
    step = PIECE if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else 4096
    with archive.open(info) as stream:
        yield Unpacking(stream, where, budget, step)


class _Header(tarfile.TarInfo):
    """A header of a tar. Texts for other headers are short, because tarfile keeps those that are for all."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _TEXTS and self.size > LONGEST_TEXT:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        info: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return info


def _tar(path: Path, budget: Budget) -> Iterator[Entry]:
    with opened(path, budget, unpack=True) as file:
        stream = file if isinstance(file, Unpacking) else Unpacking(file, path, budget)
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as archive:  # type: ignore[call-overload]
            while info := archive.next():
                archive.members.clear()  # it would keep them all
                if info.size < 0:  # the next member would be this one again, for ever
                    raise tarfile.ReadError("a negative size")
                if info.isdir():
                    yield _split(info.name), None
                elif info.isreg():
                    yield _split(info.name), partial(_from_tar, archive, info, path, budget)
        if stream is file:
            while stream.read(PIECE):  # the checksum of a compressed file comes at its end
                pass
        elif not _has_end(path):
            raise tarfile.ReadError("its end is missing")


def _from_tar(archive: tarfile.TarFile, info: tarfile.TarInfo, path: Path, budget: Budget) -> bytes:
    where = f"{path}: {printable(info.name)}"
    if info.issparse():
        raise RefusedError(f"{where}: expected a file without holes, got a sparse one")
    budget.need(where, info.size)
    file = archive.extractfile(info)
    assert file is not None  # `info` is a regular file
    data = read_at_most(file, info.size)
    if len(data) != info.size:
        raise tarfile.ReadError("its end is missing")
    return data


def _has_end(path: Path) -> bool:
    """Whether a plain tar ends in its two blocks of zeros. (A compressed tar has a checksum instead.)"""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return not any(file.read())
