"""How much one dataset may unpack and hold, and files that are opened with care.

The sizes that files claim are checked before anything is allocated, and counted again while it is read, because a file
may lie. Example with the default of 2 GiB: a zip of 3 MB says that an image has 3 GB. It is refused by its directory. A
zip of 3 MB with a million images of 3 kB, each of 100 million pixels, is refused after about 20 images: one image at a
time fits into memory, but all of them together are more than 2 GiB and more than 100 times the size of the zip.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from hat.arguments import check_number
from hat.untrusted.files import in_words

GIB = 1 << 30
MAX_GIB = 2.0
RATIO = 100  # photos unpack to about 10 times their size, MNIST to 5 times, an image of one colour to 1000 times
ENTRY = 1024  # bytes that Python needs to keep the name and the place of one file of an archive
PIECE = 1 << 20  # bytes that are read at a time


class RefusedError(ValueError):
    """A file is not read, though it may be whole. The message says which file and why."""


class TooLargeError(RefusedError):
    """A file holds more than `max_gib` allows."""


class Budget:
    """What the reader of one dataset may hold in memory, and what it may unpack one after another.

    Memory stays below twice the limit, because a reader keeps at most one copy of what it holds. What is unpacked and
    thrown away again (an image that is resized) may be more than the limit, up to `RATIO` times the size of the files:
    then it takes time as their size does.

    Args:
        max_gib: the limit in GiB, > 0.

    Attributes:
        most: the limit in bytes.

    Raises:
        ValueError: `max_gib` is no number > 0.
    """

    def __init__(self, max_gib: float = MAX_GIB) -> None:
        check_number("max_gib", max_gib, above=0)
        self.most = int(max_gib * GIB)
        self._held = self._unpacked = self._packed = 0

    def need(self, where: object, count: int) -> None:
        """Check that `count` more bytes may be held for a while.

        Raises:
            TooLargeError: with them, more than the limit would be held; the message names `where`.
        """
        if self._held + count > self.most:
            raise self._too_large(where, "in memory", self._held + count)

    def hold(self, where: object, count: int) -> None:
        """Count `count` bytes that are held from now on. Errors as in `need`."""
        self.need(where, count)
        self._held += count

    def allow(self, where: object, count: int) -> None:
        """Check that a second copy of the data, of `count` bytes in all, is not larger than the limit.

        Raises:
            TooLargeError: it is; the message names `where`.
        """
        if count > self.most:
            raise self._too_large(where, "in memory", count)

    def packed(self, count: int) -> None:
        """Count `count` bytes of a file on the disk, which may be unpacked."""
        self._packed += count

    def unpack(self, where: object, count: int) -> None:
        """Count `count` bytes that come out of a compressed file or image.

        Raises:
            TooLargeError: more came out than the limit and `RATIO` times the files; the message names `where`.
        """
        self._unpacked += count
        most = self.most + RATIO * self._packed
        if self._unpacked > most:
            raise self._too_large(where, "unpacked", self._unpacked, most)

    def _too_large(self, where: object, what: str, count: int, most: int | None = None) -> TooLargeError:
        expected = f"at most {(most or self.most) / GIB:.3g} GiB {what}"
        count = min(count, 1 << 100)  # Python cannot print an int of any size as a fraction
        return TooLargeError(
            f"{where}: expected {expected}, got {count / GIB:.3g} GiB or more; max_gib raises the limit"
        )


class Unpacking:
    """A stream that goes forward only, in small steps. What comes out of it is counted.

    Args:
        stream: has `read`.
        where: the name of the file, for messages.
        budget: counts the bytes.
        step: the most bytes that are asked of `stream` at a time.
    """

    def __init__(self, stream: Any, where: object, budget: Budget, step: int = PIECE) -> None:
        self._stream, self._where, self._budget, self._step = stream, where, budget, step
        self._place = 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end.

        Raises:
            ValueError: `size` is not in 0..PIECE. A damaged file may ask for that.
        """
        if not 0 <= size <= PIECE:
            raise ValueError(f"size: expected 0..{PIECE}, got {size}")
        data: bytes = self._stream.read(min(size, self._step))
        if 0 < len(data) < size:
            parts = [data]
            while size > (have := sum(map(len, parts))) and parts[-1]:
                parts.append(self._stream.read(min(size - have, self._step)))
            data = b"".join(parts)
        self._place += len(data)
        self._budget.unpack(self._where, len(data))
        return data

    def seek(self, place: int) -> None:
        """Go forward to `place`. Going back would unpack the file again and again.

        Raises:
            ValueError: `place` lies behind.
        """
        if place < self._place:
            raise ValueError(f"place: expected {self._place} or more, got {place}")
        while self._place < place and self.read(min(place - self._place, PIECE)):
            pass

    def tell(self) -> int:
        """How many bytes have come."""
        return self._place

    def seekable(self) -> bool:
        """False, because the data only goes forward."""
        return False


class _Xz:
    """Unpacks xz with little memory. A file may ask for 4 GiB, and `lzma.open` has no limit."""

    def __init__(self, file: IO[bytes], where: object, budget: Budget) -> None:
        self._file, self._where, self._budget = file, where, budget
        self._memory = max(budget.most // 8, 100 << 20)  # xz -9 needs 65 MiB
        self._unpacker = lzma.LZMADecompressor(memlimit=self._memory)

    def read(self, size: int) -> bytes:
        while True:
            packed = self._file.read(1 << 16) if self._unpacker.needs_input else b""
            if self._unpacker.eof:  # another stream may follow, and zeros
                packed = (self._unpacker.unused_data or self._file.read(1 << 16)).lstrip(b"\0")
                if not packed:
                    return b""
                self._unpacker = lzma.LZMADecompressor(memlimit=self._memory)
            elif self._unpacker.needs_input and not packed:
                raise EOFError("its end is missing")
            try:
                data = self._unpacker.decompress(packed, size)
            except lzma.LZMAError as error:
                if "limit" in str(error):
                    self._budget.need(self._where, 8 * self._memory)
                raise
            if data:
                return data


@contextmanager
def opened(path: Path, budget: Budget, *, unpack: bool = False) -> Iterator[Any]:
    """Open a file to read it.

    Args:
        path: of the file.
        budget: counts the size of the file.
        unpack: whether to unpack a file whose beginning says gzip, bzip2 or xz; its name does not matter.

    Yields:
        The file, or an `Unpacking` of it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no regular file (reading a pipe would wait for ever), or it may not be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise RefusedError(f"{path}: expected a regular file, got a folder, a pipe or a device")
    try:
        file = path.open("rb")
    except OSError as error:
        raise RefusedError(f"{path}: expected a file that can be read, got {in_words(error)}") from error
    with file:
        budget.packed(path.stat().st_size)
        magic = file.read(2) if unpack else b""
        file.seek(0)
        if magic == b"\x1f\x8b":
            yield Unpacking(gzip.GzipFile(fileobj=file), path, budget)
        elif magic == b"BZ":
            yield Unpacking(bz2.BZ2File(file), path, budget)
        elif magic == b"\xfd7":
            yield Unpacking(_Xz(file, path, budget), path, budget)
        else:
            yield file


def pieces(stream: Any, count: int) -> Iterator[bytes]:
    """The next `count` bytes of a stream, some at a time; fewer if the stream ends."""
    while count > 0 and (piece := stream.read(min(count, PIECE))):
        count -= len(piece)
        yield piece


def read_at_most(stream: Any, count: int) -> bytes:
    """The next `count` bytes of a stream, or fewer if the stream ends. Memory holds them once."""
    buffer = io.BytesIO()
    for piece in pieces(stream, count):
        buffer.write(piece)
    return buffer.getvalue()


def fill(stream: Any, array: np.ndarray) -> int:
    """Read the bytes of a contiguous array from a stream. Returns how many came."""
    target = array.reshape(-1).view(np.uint8).data
    place = 0
    for piece in pieces(stream, len(target)):
        target[place : place + len(piece)] = piece
        place += len(piece)
    return place
