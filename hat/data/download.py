"""Checksummed downloads into the user's cache."""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.data.limits import PIECE, Budget, opened
from hat.data.optional import optional

TIMEOUT_S = 30


@dataclass(frozen=True)
class Remote:
    """A file that can be downloaded.

    Attributes:
        file: the name of the file in the folder of its dataset.
        urls: addresses of the file, tried in order.
        md5: checksum of the bytes of the file; with `gzip`, of the unpacked bytes, since mirrors pack them differently.
        gzip: whether the file is packed with gzip.
    """

    file: str
    urls: tuple[str, ...]
    md5: str
    gzip: bool = False


def verify(path: Path, remote: Remote) -> None:
    """Check that a file has the checksum of `remote`.

    Raises:
        ValueError: the checksum differs; the message names the path.
    """
    digest = hashlib.md5()
    with opened(path, Budget(), unpack=remote.gzip) as stream:
        try:
            while block := stream.read(PIECE):
                digest.update(block)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise ValueError(f"{path}: expected a whole gzip file, got a truncated or damaged one") from error
    if digest.hexdigest() != remote.md5:
        hashed = "unpacked bytes" if remote.gzip else "bytes"
        raise ValueError(f"{path}: expected {hashed} with md5 {remote.md5}, got md5 {digest.hexdigest()}")


def download(remotes: Sequence[Remote], folder: Path) -> None:
    """Download the files that `folder` lacks. A file gets its name only after its checksum was verified.

    Raises:
        ImportError: pooch is not installed.
        ConnectionError: no address gives the file; the message names the file, the addresses and the folder.
        ValueError: a downloaded file has another checksum and was deleted; the message names the same.
    """
    for remote in remotes:
        names = {remote.file, remote.file.removesuffix(".gz") if remote.gzip else remote.file}
        if not any((folder / name).exists() for name in names):
            _fetch(remote, folder)


def _fetch(remote: Remote, folder: Path) -> None:
    pooch = optional("pooch", f"downloading {remote.file}")
    pooch.get_logger().setLevel(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    wrong = False
    for url in remote.urls:
        # Every download has a folder for itself: two processes may download one file at once, and a process that is
        # killed leaves no unfinished file under the final name.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as temporary:
            try:
                downloader = pooch.HTTPDownloader(timeout=TIMEOUT_S)
                pooch.retrieve(url, None, fname=remote.file, path=temporary, downloader=downloader)
                verify(Path(temporary) / remote.file, remote)
                os.replace(Path(temporary) / remote.file, folder / remote.file)
                return
            except OSError as error:  # the base class of every error of requests
                failures.append(f"{url} failed ({_short(error)})")
            except ValueError as error:
                wrong = True
                failures.append(f"{url} gave another file ({str(error).removeprefix(temporary + os.sep)}), deleted")
    message = f"{remote.file}: {'; '.join(failures)}; get the file by hand and put it in {folder}"
    raise ValueError(message) if wrong else ConnectionError(message)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
