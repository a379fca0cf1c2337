"""Images that claim to be huge, go in circles, or are something else."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from tests.hostile.archives import IMAGES, png
from tests.hostile.kind import BOMB, EITHER, READ, Kind, write


def encoded(kind: str, size: tuple[int, int] = (4, 4), mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def chunk(name: bytes, content: bytes, *, length: int | None = None) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content) if length is None else length) + name + content + checksum


def png_of(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0, data: bytes = bytes(20)) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A TIFF of one directory: (tag, type, count, value)."""
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", following)


ZEROS = zlib.compress(bytes(BOMB), 1)
TEXT = b"k\0\0" + ZEROS
ANIMATED = encoded("GIF", mode="P", save_all=True, append_images=[Image.new("P", (4, 4), n % 200) for n in range(2000)])

REFUSED: dict[str, tuple[str, bytes]] = {
    "PNG of 60,000 by 60,000": ("png", png_of(60_000, 60_000)),
    "PNG of 2**31 by 2**31": ("png", png_of(2**31 - 1, 2**31 - 1)),
    "PNG of 12,000 by 12,000": ("png", png_of(12_000, 12_000, data=bytes(12_001 * 12_000))),
    "PNG of no size": ("png", png_of(0, 4)),
    "PNG cut short": ("png", png()[:40]),
    "PNG of 16 bits": ("png", png_of(4, 4, depth=16, data=bytes(36))),
    "PNG chunk of 2 GiB": ("png", png_of(4, 4, chunk(b"tEXt", b"x", length=2**31 - 1))),
    "PNG with another checksum": ("png", png_of(4, 4).replace(b"IHDR\0\0\0\4", b"IHDR\0\0\0\5")),
    "GIF of 65,535 by 65,535": (
        "gif",
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0,"
        + bytes(4)
        + struct.pack("<HH", 65535, 65535)
        + b"\0\x08\x01\0\0;",
    ),
    "BMP of 60,000 by 60,000": (
        "bmp",
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    ),
    "BMP of negative width": (
        "bmp",
        b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, -4, -4, 1, 24, 0, 0, 0, 0, 0, 0),
    ),
    "PPM of 10**9 by 10**9": ("ppm", b"P6 1000000000 1000000000 255\n"),
    "PPM of ten thousand digits": ("ppm", b"P6 " + b"9" * 10_000 + b" 4 255\n"),
    "PGM of 65535 values": ("pgm", b"P5 4 4 65535\n" + bytes(32)),
    "TIFF whose directory goes in a circle": ("tif", tiff((256, 4, 1, 4), (257, 4, 1, 4), following=8)),
    "TIFF of 2**31 by 2**31": ("tif", tiff((256, 4, 1, 2**31), (257, 4, 1, 2**31), (273, 4, 1, 8), (279, 4, 1, 8))),
    "TIFF tag of 2**32 - 1 values": ("tif", tiff((256, 4, 1, 4), (257, 4, 1, 4), (273, 12, 2**32 - 1, 8))),
    "TIFF directory outside of the file": ("tiff", b"II*\0\xff\xff\xff\x7f"),
    "TIFF strips outside of the file": (
        "tif",
        tiff(
            (256, 4, 1, 4),
            (257, 4, 1, 4),
            (258, 3, 1, 8),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (273, 4, 1, 2**31),
            (277, 3, 1, 1),
            (278, 4, 1, 4),
            (279, 4, 1, 2**31),
        ),
    ),
    "JPEG of 65,500 by 65,500": (
        "jpg",
        encoded("JPEG").replace(b"\0\x11\x08\0\x04\0\x04", b"\0\x11\x08\xff\xdc\xff\xdc"),
    ),
    "JPEG cut short": ("jpeg", encoded("JPEG", (64, 64))[:500]),
    "WebP of 16,383 by 16,383": ("webp", b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0/\xff\xff\xff\x0f" + bytes(8)),
    "EPS": ("png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n(executed) (w) file closefile\nshowpage\n"),
    "SVG": ("png", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"),
    "PDF": ("jpg", b"%PDF-1.4\n1 0 obj<</OpenAction<</S/Launch/F(executed)>>>>endobj\n"),
    "ICO": ("png", b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0\xff\xff\xff\x7f\x16\0\0\0"),
    "FITS": ("tif", b"SIMPLE  =                    T" + bytes(2850)),
    "BLP": ("bmp", b"BLP2" + bytes(200)),
    "text": ("png", b"text"),
    "empty": ("gif", b""),
}
HARMLESS: dict[str, tuple[str, bytes]] = {
    "GIF of 2,000 pictures": ("gif", ANIMATED),
    "PNG whose text is a bomb": ("png", png_of(4, 4, chunk(b"zTXt", TEXT))),
    "PNG whose colour profile is a bomb": ("png", png_of(4, 4, chunk(b"iCCP", TEXT))),
    "PNG of 200,000 pictures": ("png", png_of(4, 4, chunk(b"acTL", struct.pack(">II", 200_000, 0)))),
    "PNG whose pixels are a bomb": ("png", png_of(4, 4)[:33] + chunk(b"IDAT", ZEROS) + chunk(b"IEND", b"")),
    "JPEG with the suffix of a PNG": ("png", encoded("JPEG", mode="L")),
    "PNG with an entity of 2 GiB in its EXIF": ("png", png_of(4, 4, chunk(b"eXIf", tiff((270, 2, 2**31, 8))))),
}


def folder(at: Path, suffix: str = "", content: bytes = b"") -> None:
    for name, image in IMAGES:
        write(at / name, image)
    if suffix:
        write(at / "train" / "a" / f"9.{suffix}", content)


def beside(at: Path, kind: str) -> None:
    """A folder of images, and in it something that is no image."""
    folder(at)
    place = at / "train" / "a" / "x.png"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "hidden pipe":
        os.mkfifo(place.with_name(".x.png"))
    elif kind == "circle":
        (place.with_name("again")).symlink_to(at)
    else:
        place.symlink_to({"device": "/dev/zero", "itself": "x.png", "nothing": "gone"}[kind])


def kinds() -> Iterator[Kind]:
    """All kinds of this file."""
    yield Kind("image/whole", "data", folder, outcome=READ)
    for group, outcome in ((REFUSED, "refused"), (HARMLESS, EITHER)):
        for name, (suffix, content) in group.items():
            yield Kind(f"image/{name}", "data", partial(folder, suffix=suffix, content=content), outcome=outcome)
    for kind in ("pipe", "device", "itself", "nothing"):
        yield Kind(f"image/{kind} in the folder", "data", partial(beside, kind=kind))
    for kind in ("hidden pipe", "circle"):
        yield Kind(f"image/{kind} in the folder", "data", partial(beside, kind=kind), outcome=EITHER)
