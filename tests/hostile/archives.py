"""Archives of images, and gzip files: bombs, headers that lie, and names that lead outside."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from tests.hostile.kind import BOMB, EITHER, READ, Kind, of_bytes, write

_Members = Sequence[tuple[str, bytes]]


def png(value: int = 0, size: tuple[int, int] = (4, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, value).save(file, "PNG")
    return file.getvalue()


IMAGES: _Members = [
    (f"{part}/{name}/{n}.png", png(16 * n + k))
    for k, part in enumerate(("train", "test"))
    for name in "ab"
    for n in range(2)
]


def zipped(path: Path, members: _Members, method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of images and other members."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in [*IMAGES, *members]:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return path.read_bytes()


def patched(path: Path, members: _Members, old: bytes, new: bytes, method: int = zipfile.ZIP_STORED) -> None:
    content = zipped(path, members, method)
    assert old in content
    path.write_bytes(content.replace(old, new))


def central(path: Path, name: str, offset: int, value: bytes) -> None:
    """Change the entry of a member in the directory at the end of a zip file."""
    content = bytearray(zipped(path, [(name, png())]))
    entry = content.rindex(name.encode()) - 46
    assert content[entry : entry + 4] == b"PK\1\2"
    content[entry + offset : entry + offset + len(value)] = value
    path.write_bytes(content)


def bomb_zip(path: Path, method: int = zipfile.ZIP_DEFLATED, *, members: int = 1) -> None:
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for index in range(members):
            with archive.open(f"train/a/{index}.png", "w") as member:
                for _ in range(BOMB // members >> 20):
                    member.write(bytes(1 << 20))


def many_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(10_000):
            archive.writestr(f"{index}/", b"")


def overlapping(path: Path) -> None:
    """Two hundred entries of the directory that all name one member of a megabyte."""
    zipped(path, [("train/a/x.png", os.urandom(1 << 20))])
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    start = struct.unpack("<I", content[end + 16 : end + 20])[0]
    last = content.rindex(b"PK\1\2")
    entries = content[start:last] + content[last:end] * 200
    count = struct.pack("<HH", len(IMAGES) + 200, len(IMAGES) + 200)
    tail = content[end : end + 8] + count + struct.pack("<II", len(entries), start) + b"\0\0"
    path.write_bytes(content[:start] + entries + tail)


def nested(path: Path) -> None:
    inner = b"x"
    for level in range(20):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for index in range(5):
                archive.writestr(f"{level}{index}.zip", inner)
        inner = file.getvalue()[: 1 << 20]
    path.write_bytes(zipped(path, [("more.zip", inner)]))


LINK = zipfile.ZipInfo("train/a/link.png")
LINK.external_attr = 0o120777 << 16


def zip_link(path: Path) -> None:
    zipped(path, [])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(LINK, "/etc/passwd")


ZIPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "whole": (partial(zipped, members=[]), READ),
    "bomb of one member": (bomb_zip, "refused"),
    "bomb of forty members": (partial(bomb_zip, members=40), "refused"),
    "bomb by bzip2": (partial(bomb_zip, method=zipfile.ZIP_BZIP2), "refused"),
    "bomb by lzma": (partial(bomb_zip, method=zipfile.ZIP_LZMA), "refused"),
    "member that claims 4 GiB": (
        partial(central, name="train/a/x.png", offset=24, value=b"\xfe\xff\xff\xff"),
        "refused",
    ),
    "member that claims 0 bytes": (partial(central, name="train/a/x.png", offset=24, value=bytes(4)), "refused"),
    "packed size of 4 GiB": (partial(central, name="train/a/x.png", offset=20, value=b"\xfe\xff\xff\xff"), EITHER),
    "wrong checksum": (partial(central, name="train/a/x.png", offset=16, value=b"abcd"), "refused"),
    "encrypted": (partial(central, name="train/a/x.png", offset=8, value=b"\1\0"), "refused"),
    "unknown compression": (partial(central, name="train/a/x.png", offset=10, value=b"\x63\0"), "refused"),
    "needs version 99": (partial(central, name="train/a/x.png", offset=6, value=b"\x63\0"), "refused"),
    "offset outside of the file": (
        partial(central, name="train/a/x.png", offset=42, value=b"\xf0\xff\xff\x7f"),
        "refused",
    ),
    "overlapping members": (overlapping, EITHER),
    "zips in zips": (nested, EITHER),
    "ten thousand folders": (many_members, "refused"),
    "path that leads outside": (
        partial(zipped, members=[("../../executed", b"x"), ("../train/a/z.png", png())]),
        EITHER,
    ),
    "absolute path": (partial(zipped, members=[("/tmp/executed", b"x"), ("C:\\executed", b"x")]), EITHER),
    "link to a file of the system": (zip_link, "refused"),
    "name with a zero byte": (
        partial(patched, members=[("train/a/zero.png", b"x")], old=b"train/a/zero.png", new=b"train/a/z\0ro.png"),
        EITHER,
    ),
    "name with a new line": (partial(zipped, members=[("train/a/x\ny.png", b"x")]), "refused"),
    "name with a code of the terminal": (
        partial(zipped, members=[("train/a/\x1b[2J\x1b]0;x\x07.png", b"x")]),
        "refused",
    ),
    "name of 60,000 letters": (partial(zipped, members=[("train/a/" + "x" * 60_000 + ".png", b"x")]), "refused"),
    "name of 5,000 folders": (partial(zipped, members=[("x/" * 5_000 + "a.png", png())]), "refused"),
    "same member twice": (partial(zipped, members=[IMAGES[0]]), EITHER),
    "directory of 2**31 bytes": (
        lambda path: path.write_bytes(b"PK\5\6" + bytes(4) + b"\xff\xff" * 2 + b"\xff\xff\xff\x7f" * 2 + b"\0\0"),
        "refused",
    ),
    "zip64 directory of 2**62 entries": (
        lambda path: path.write_bytes(
            b"PK\6\6"
            + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2**62, 2**62, 2**62, 0)
            + b"PK\6\7"
            + struct.pack("<IQI", 0, 0, 1)
            + b"PK\5\6"
            + bytes(4)
            + b"\xff" * 12
            + b"\0\0"
        ),
        "refused",
    ),
    "cut short": (lambda path: path.write_bytes(zipped(path, [])[:-30]), "refused"),
    "empty": (lambda path: path.touch(), "refused"),
    "without a member": (lambda path: zipfile.ZipFile(path, "w").close(), "refused"),
    "folder with the suffix": (lambda path: path.mkdir(), "refused"),
    "pipe": (lambda path: os.mkfifo(path), "refused"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "refused"),
    "link to itself": (lambda path: path.symlink_to(path.name), "refused"),
}


def tarred(path: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> None:
    """A tar file of images and other members."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in IMAGES:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if content else None)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    info.devmajor, info.devminor = 1, 5
    return info


def special(*members: tarfile.TarInfo) -> Callable[[Path], object]:
    return lambda path: tarred(path, [(info, b"") for info in members])


def headers(*members: tarfile.TarInfo, data: bytes = b"") -> Callable[[Path], object]:
    """Headers alone, whatever sizes they claim."""

    blocks = b"".join(info.tobuf(tarfile.GNU_FORMAT) for info in members)
    return lambda path: path.write_bytes(blocks + data + bytes(1024))


def sparse(path: Path, real: int) -> None:
    """A member of the old GNU kind that is one hole."""
    info = member("train/a/x.png", b"S")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (0, 0)
    block[482] = 0
    block[483:495] = b"\x80" + real.to_bytes(11, "big")
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    path.write_bytes(bytes(block) + bytes(1024))


def pax(*records: bytes, size: int | None = None) -> Callable[[Path], object]:
    content = b"".join(records)
    info = member("pax", tarfile.XHDTYPE, size=len(content) if size is None else size)
    data = content + bytes(-len(content) % 512)
    image = member("train/a/0.png", size=len(png()))
    data += image.tobuf(tarfile.GNU_FORMAT) + png().ljust(512, b"\0")
    return headers(info, data=data)


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body) + 1
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return str(length).encode() + body


def bomb_tar(path: Path, pack: Callable[[bytes], bytes]) -> None:
    head = member("train/a/0.png", size=BOMB).tobuf(tarfile.GNU_FORMAT)
    block = pack(bytes(16 << 20))
    path.write_bytes(pack(head) + block * (BOMB // (16 << 20)) + pack(bytes(1024)))


def padded(path: Path) -> None:
    """A small archive and behind it zeros without end."""
    tarred(path, [], "w:gz")
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(16 << 20), 1) * 20)


TARS: dict[str, tuple[Callable[[Path], object], str]] = {
    "whole.tar": (partial(tarred, members=[]), READ),
    "links and devices.tar": (
        special(
            member("train/a/link.png", tarfile.SYMTYPE, "../../../../etc/passwd"),
            member("train/a/hard.png", tarfile.LNKTYPE, "/etc/passwd"),
            member("train/a/fifo.png", tarfile.FIFOTYPE),
            member("train/a/zero.png", tarfile.CHRTYPE),
            member("train/a/block.png", tarfile.BLKTYPE),
            member("train/a/odd.png", b"9"),
        ),
        EITHER,
    ),
    "link in a circle.tar": (
        special(member("train/a/x.png", tarfile.SYMTYPE, "y.png"), member("train/a/y.png", tarfile.LNKTYPE, "x.png")),
        EITHER,
    ),
    "path that leads outside.tar": (special(member("../../executed"), member("/tmp/executed")), EITHER),
    "member of 2 GiB without bytes.tar": (headers(member("train/a/0.png", size=2**31)), "refused"),
    "member of 2**60 bytes.tar": (headers(member("train/a/0.png", size=2**60)), "refused"),
    "member of negative size.tar": (headers(member("train/a/0.png", size=-(2**40))), "refused"),
    "sparse member of 1 TiB.tar": (partial(sparse, real=2**40), "refused"),
    "sparse member of a bomb.tar": (partial(sparse, real=BOMB), "refused"),
    "pax header of 1 GiB.tar": (pax(record("comment", "x"), size=2**30), "refused"),
    "pax header of negative length.tar": (pax(b"-5 path=x\n"), "refused"),
    "pax header of other text.tar": (pax(b"999999999999999999999 path=x\n"), "refused"),
    "pax size of 2**50.tar": (pax(record("size", str(2**50))), "refused"),
    "pax size of no number.tar": (pax(record("size", "lots")), EITHER),
    "pax sparse map.tar": (
        pax(
            record("GNU.sparse.major", "0"),
            record("GNU.sparse.map", "0,1," * 1000 + "0"),
            record("GNU.sparse.size", "9"),
        ),
        "refused",
    ),
    "pax sparse map of no numbers.tar": (pax(record("GNU.sparse.map", "x,y")), "refused"),
    "pax encoding.tar": (pax(record("hdrcharset", "BINARY"), b"11 path=\xff\xfe\n"), EITHER),
    "long name of 1 GiB.tar": (headers(member("x", tarfile.GNUTYPE_LONGNAME, size=2**30)), "refused"),
    "wrong checksum.tar": (lambda path: path.write_bytes(b"x" * 10240), "refused"),
    "cut short.tar": (lambda path: (tarred(path, []), path.write_bytes(path.read_bytes()[:3000])), "refused"),
    "empty.tar": (lambda path: path.touch(), "refused"),
    "zeros.tar": (lambda path: path.write_bytes(bytes(1 << 20)), "refused"),
    "bomb.tar.gz": (partial(bomb_tar, pack=partial(gzip.compress, compresslevel=1)), "refused"),
    "bomb.tar.bz2": (partial(bomb_tar, pack=bz2.compress), "refused"),
    "bomb.tar.xz": (partial(bomb_tar, pack=partial(lzma.compress, preset=0)), "refused"),
    "zeros without end.tar.gz": (padded, EITHER),
    "whole.tgz": (partial(tarred, members=[], mode="w:gz"), READ),
    "cut short.tar.gz": (
        lambda path: (tarred(path, [], "w:gz"), path.write_bytes(path.read_bytes()[:-20])),
        "refused",
    ),
    "wrong checksum.tar.gz": (
        lambda path: (tarred(path, [], "w:gz"), path.write_bytes(path.read_bytes()[:-8] + b"abcdefgh")),
        "refused",
    ),
    "cut short.tar.xz": (
        lambda path: (tarred(path, [], "w:xz"), path.write_bytes(path.read_bytes()[:-40])),
        "refused",
    ),
    "dictionary of 4 GiB.tar.xz": (
        lambda path: path.write_bytes(
            lzma.compress(bytes(10240), filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1536 << 20}])
        ),
        "refused",
    ),
    "folder.tar": (lambda path: path.mkdir(), "refused"),
    "pipe.tar": (lambda path: os.mkfifo(path), "refused"),
    "pipe.tar.gz": (lambda path: os.mkfifo(path), "refused"),
}


def raw_gzip(content: bytes, name: bytes = b"", flags: int = 0) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = packer.compress(content) + packer.flush()
    return (
        b"\x1f\x8b\x08"
        + bytes([flags])
        + bytes(6)
        + name
        + body
        + struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)
    )


IDX = b"\0\0\x08\x03\0\0\0\4\0\0\0\2\0\0\0\2" + bytes(range(16))
_HEAD = b"\0\0\x08\x03" + struct.pack(">III", BOMB // 4, 2, 2)
GZIPS: dict[str, bytes] = {
    "bomb": raw_gzip(_HEAD) + gzip.compress(bytes(16 << 20), 1) * (BOMB // (16 << 20)),
    "bomb behind a small array": raw_gzip(IDX) + gzip.compress(bytes(16 << 20), 1) * (BOMB // (16 << 20)),
    "length that lies": raw_gzip(IDX)[:-4] + b"\xff\xff\xff\x7f",
    "checksum that lies": raw_gzip(IDX)[:-8] + b"abcd" + raw_gzip(IDX)[-4:],
    "cut short": raw_gzip(IDX)[:-9],
    "header alone": raw_gzip(IDX)[:10],
    "name without an end": raw_gzip(IDX, b"x" * 100_000, 8)[:50_000],
    "unknown method": b"\x1f\x8b\x63" + raw_gzip(IDX)[3:],
    "junk behind it": raw_gzip(IDX) + b"junk",
    "noise": b"\x1f\x8b\x08\0" + bytes(6) + bytes(range(256)) * 10,
}


def idx_folder(at: Path, images: bytes, suffix: str = ".gz") -> None:
    write(at / f"train-images-idx3-ubyte{suffix}", images)
    write(at / "train-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\4\0\0\1\1")


def kinds() -> Iterator[Kind]:
    """All kinds of this file."""
    for name, (build, outcome) in ZIPS.items():
        yield Kind(f"zip/{name}", "data", lambda at, build=build: build(at / "x.zip"), "x.zip", outcome)
    for name, (build, outcome) in TARS.items():
        file = "x" + name[name.index(".") :]
        yield Kind(f"tar/{name}", "data", lambda at, b=build, file=file: b(at / file), file, outcome)
    yield Kind(
        "gzip/whole in two parts",
        "data",
        lambda at: idx_folder(at, raw_gzip(IDX[:9]) + raw_gzip(IDX[9:])),
        outcome=READ,
    )
    for name, content in GZIPS.items():
        yield Kind(f"gzip/{name}", "data", lambda at, content=content: idx_folder(at, content))
    yield from of_bytes("file", "data", "x.exe", {"unknown suffix": b"MZ"})
