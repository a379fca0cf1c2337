"""Reader: images in folders, one folder a class; on disk, or in a zip, tar, tar.gz or tar.xz."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hat.data.archive import entries
from hat.data.arrays import make_dataset
from hat.data.dataset import Dataset
from hat.data.limits import MAX_GIB, Budget
from hat.data.optional import optional

BLOCK = 64 << 20  # bytes; from 32 MiB on, the C library gives memory back to the system as soon as it is freed
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MOST_SCANS = 200  # of a progressive JPEG, which usually has 10: each of them, however short, works on the whole image
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of a TIFF
DECODING = 16  # bytes a pixel that Pillow takes at most: it keeps RGB in 4 bytes, and copies to convert and to give out
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

Names = tuple[str, ...]


def is_image(name: str) -> bool:
    """Whether the file name has a suffix of an image."""
    return name.lower().endswith(SUFFIXES)


def read_images(
    path: str | Path, name: str, *, size: tuple[int, int] | None = None, max_gib: float = MAX_GIB
) -> Dataset:
    """Read images from `train/<class>/<image>` and `test/<class>/<image>`, or from `<class>/<image>` alone.

    Without train/ and test/, a fifth of the distinct images of each class, drawn with a fixed seed, is the test part.
    Other folders may wrap all these folders. Classes are sorted by name, and so are the images of a class. If all
    images are grey, the dataset is grey; otherwise it is RGB. A channel has 8 bits.

    Args:
        path: a folder or an archive.
        name: of the dataset.
        size: (H, W) to resize the images to. None: all images must have one size.
        max_gib: the most that the images may take, decoded and resized, in GiB.

    Raises:
        ValueError: a class has no images or is in one part only, an image cannot be decoded or lies outside of the
            class folders, images have different sizes, the archive is damaged, or the images take more than `max_gib`;
            the message names the file or folder.
    """
    path, budget = Path(path), Budget(max_gib)
    decode = _decoder(size, budget)
    images: dict[Names, np.ndarray] = {}
    folders: set[Names] = set()
    for names, read in entries(path, budget):
        if read is None:
            folders.add(names)
        elif is_image(names[-1]):
            images[names] = decode(f"{path}: {'/'.join(names)}", read())
            folders.update(names[:depth] for depth in range(1, len(names)))
    if not images:
        raise ValueError(f"{path}: expected images ({' '.join(SUFFIXES)}), one folder a class, got none")
    wrapped = _wrapping_depth(images)
    if loose := [n for n in images if len(n) < wrapped + 2]:
        raise ValueError(f"{path}: {'/'.join(min(loose))}: expected images in class folders, got one outside")
    parts = _parts({n[wrapped:] for n in folders}, path)
    classes = _classes(parts, {n[wrapped:] for n in folders}, path)
    channels = max(image.shape[2] for image in images.values())
    pixels = next(iter(images.values())).shape[0] * next(iter(images.values())).shape[1]
    budget.allow(path, len(images) * pixels * channels)
    return make_dataset(
        path, name, [_part(images, wrapped, part, classes, channels, path) for part in parts], classes, budget
    )


def _decoder(size: tuple[int, int] | None, budget: Budget) -> Callable[[str, bytes], np.ndarray]:
    """A function (place, bytes) -> uint8 [H, W, 1 or 3] that refuses an image of another size than the first."""
    pillow = optional("PIL.Image", "a folder of images")
    first: list[tuple[str, tuple[int, int]]] = []
    kept = {1: _ImageBlocks(), 3: _ImageBlocks()}

    def decode(where: str, data: bytes) -> np.ndarray:
        pixels = _decoded(pillow, where, data, size, budget)
        first[:] = first or [(where, pixels.shape[:2])]
        if pixels.shape[:2] != first[0][1]:
            raise ValueError(
                f"{where}: expected (H, W) = {first[0][1]} as in {first[0][0]}, got {pixels.shape[:2]}; "
                "give size=(H, W), or --size H W, to resize them"
            )
        budget.hold(where, pixels.nbytes)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        return kept[pixels.shape[2]].keep(pixels)

    return decode


class _ImageBlocks:
    """Images of one size in large blocks, because Python gives the memory of many small arrays back too late."""

    def __init__(self) -> None:
        self._block, self._used = np.empty((0,)), 0

    def keep(self, pixels: np.ndarray) -> np.ndarray:
        """The image, in a place of its own in a block."""
        if self._used == len(self._block):
            self._block, self._used = np.empty((max(1, BLOCK // max(1, pixels.nbytes)), *pixels.shape), np.uint8), 0
        self._block[self._used] = pixels
        self._used += 1
        return self._block[self._used - 1]


def _decoded(pillow: Any, where: str, data: bytes, size: tuple[int, int] | None, budget: Budget) -> np.ndarray:
    """The pixels of one image, uint8 [H, W] or [H, W, 3]. They are counted before they are decoded."""
    if data.count(b"\xff\xda") > MOST_SCANS and data.startswith(b"\xff\xd8"):
        raise ValueError(f"{where}: expected an 8-bit image, got a JPEG with more than {MOST_SCANS} scans")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
            image = pillow.open(io.BytesIO(data), formats=FORMATS)
        with image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{where}: expected an 8-bit image, got {image.mode}: more than 8 bits a channel")
            resized = 0 if size is None else size[0] * size[1]
            tags = getattr(image, "tag_v2", {})  # of a TIFF, whose tiles may be larger than the image
            pixels = max(image.width * image.height, tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0))
            budget.need(where, len(data) + DECODING * (pixels + resized))
            budget.unpack(where, 3 * pixels)
            image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
            if size is not None and image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), pillow.Resampling.BILINEAR)
            return np.asarray(image)
    except pillow.DecompressionBombError as error:
        most = 2 * pillow.MAX_IMAGE_PIXELS
        raise ValueError(f"{where}: expected an image of at most {most} pixels, got a larger one") from error
    except ValueError as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: expected an 8-bit image, got a damaged one") from error
    except Exception as error:  # Pillow raises errors of many classes for damaged bytes
        kinds = ", ".join(FORMATS)
        raise ValueError(f"{where}: expected an 8-bit image ({kinds}), got a damaged or other file") from error


def _wrapping_depth(images: dict[Names, np.ndarray]) -> int:
    """How many folders wrap all others, above `train` and `test` or above the classes."""
    depth = 0
    while all(len(n) > depth + 2 for n in images) and len(tops := {n[depth] for n in images}) == 1:
        if tops & {"train", "test"}:
            break
        depth += 1
    return depth


def _parts(folders: set[Names], path: Path) -> list[Names]:
    """The folders that hold the class folders: train and test, or the top folder alone."""
    tops = {n[0] for n in folders if n}
    if not tops & {"train", "test"}:
        return [()]
    if tops != {"train", "test"}:
        raise ValueError(f"{path}: expected train/ and test/ and no other folder, got {', '.join(sorted(tops))}")
    return [("train",), ("test",)]


def _classes(parts: list[Names], folders: set[Names], path: Path) -> list[str]:
    names = [{n[-1] for n in folders if len(n) == len(part) + 1 and n[: len(part)] == part} for part in parts]
    if names[0] != names[-1]:
        unmatched = ", ".join(sorted(names[0] ^ names[-1]))
        raise ValueError(f"{path}: expected the same class folders in train/ and test/, got in only one: {unmatched}")
    return sorted(names[0])


def _part(
    images: dict[Names, np.ndarray], wrapped: int, part: Names, classes: list[str], channels: int, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, H, W, channels], labels [N]) of one part, sorted by class and then by name.

    The images leave `images` one by one. In memory they lie as [N, channels, H, W], as the dataset wants them.
    """
    members: dict[str, list[Names]] = {c: [] for c in classes}
    for names in sorted(images):
        inside = names[wrapped:]
        if inside[: len(part)] == part:
            if len(inside) != len(part) + 2:
                raise ValueError(f"{path}: {'/'.join(names)}: expected {'/'.join((*part, '<class>', '<image>'))}")
            members[inside[-2]].append(names)
    for name, files in members.items():
        if not files:
            raise ValueError(f"{path}: {'/'.join((*part, name))}: expected images in this class folder, got none")
    height, width, _ = next(iter(images.values())).shape
    x = np.empty((sum(map(len, members.values())), channels, height, width), np.uint8)
    for row, n in enumerate(n for name in classes for n in members[name]):
        x[row] = images.pop(n).transpose(2, 0, 1)
    return x.transpose(0, 2, 3, 1), np.repeat(np.arange(len(classes)), [len(members[c]) for c in classes])
