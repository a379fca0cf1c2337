"""Checksummed downloads into the user's cache."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.data.idx import unpacked
from hat.data.optional import optional

TIMEOUT_S = 30


@dataclass(frozen=True)
class Remote:
    """A file that can be fetched.

    file: its name in the source's folder.
    urls: where it is, tried in order.
    md5: of its bytes; with `gzip`, of the bytes inside, since mirrors wrap them differently.
    """

    file: str
    urls: tuple[str, ...]
    md5: str
    gzip: bool = False


def verify(path: Path, remote: Remote) -> None:
    """Raise ValueError that names `path` unless it has the checksum of `remote`."""
    digest = hashlib.md5()
    if remote.gzip:
        digest.update(unpacked(path))
    else:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    if digest.hexdigest() != remote.md5:
        what = "unpacked bytes" if remote.gzip else "bytes"
        raise ValueError(f"{path}: expected {what} with md5 {remote.md5}, got md5 {digest.hexdigest()}")


def download(remotes: Sequence[Remote], folder: Path) -> None:
    """Fetch the files that `folder` lacks, each verified before it takes its name.

    Raises ImportError without pooch; ConnectionError when no url gives the file and ValueError when what
    came has another checksum (it is deleted). Both name the file, the url, and the folder to put it in.
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
        # a folder of its own: two processes may fetch at once, and a killed one leaves no file of that name
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as temporary:
            try:
                downloader = pooch.HTTPDownloader(timeout=TIMEOUT_S)
                pooch.retrieve(url, None, fname=remote.file, path=temporary, downloader=downloader)
                verify(Path(temporary) / remote.file, remote)
                os.replace(Path(temporary) / remote.file, folder / remote.file)
                return
            except OSError as error:  # every error of requests is one
                failures.append(f"{url} failed ({_short(error)})")
            except ValueError as error:
                wrong = True
                failures.append(f"{url} gave another file ({str(error).removeprefix(temporary + os.sep)}), deleted")
    message = f"{remote.file}: {'; '.join(failures)}; get it by hand and put it in {folder}"
    raise ValueError(message) if wrong else ConnectionError(message)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
