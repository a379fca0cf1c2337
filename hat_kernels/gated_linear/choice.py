"""Which kernel runs a matmul: blocks of a short list, or the library's own, as measured on each GPU.

`measured/<gpu>.json` holds, for a pass, an arithmetic and a class of shapes, the name of the fastest block or "vendor".
A class is M, N and K, each rounded up to a power of two. What was not measured is left to the vendor.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hat_kernels.gated_linear.blocks import Block, blocks_of

FOLDER = Path(__file__).parent / "measured"
PASSES = ("forward", "dx", "dw", "update")
KINDS = ("fp32", "tf32", "bf16", "fp16")
VENDOR = "vendor"
_PLENTY = 1 << 20
MULTIPROCESSORS = 108  # of an A100: with fewer tiles than that, smaller ones are worth more than reuse

Key = tuple[str, str, str]
Table = Mapping[Key, str]


def shape_class(m: int, n: int, k: int) -> str:
    """`"64x2048x1024"` for M = 64, N = 2000, K = 784."""
    return "x".join(str(1 << max(size - 1, 0).bit_length()) for size in (m, n, k))


def choose(purpose: str, kind: str, m: int, n: int, k: int, device: torch.device, *, forced: bool) -> Block | None:
    """The block of a pass for x [m, k] and a weight [n, k]; None: the vendor's matmul.

    Args:
        purpose: of `PASSES`.
        kind: of `KINDS`.
        m, n, k: sizes of the layer, whichever pass it is.
        device: where.
        forced: never None.
    """
    name = table(gpu_of(device)).get((purpose, kind, shape_class(m, n, k)), VENDOR)
    known = blocks_of(purpose, kind)
    if name in known:
        return known[name]
    return _fitting(purpose, known, m, n, k, _shared_bytes(device)) if forced else None


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether any pass of a layer, `x` [..., K] and `weight` [N, K], is not the vendor's.

    A layer whose passes all are is better off without an operator of its own. But a trace knows neither shapes nor
    files, and the operator asks again.
    """
    if torch.compiler.is_compiling():
        return True
    known = table(gpu_of(x.device))
    if not known:
        return False
    shape = shape_class(x.shape[:-1].numel(), *weight.shape)
    return any(known.get((purpose, kind, shape), VENDOR) != VENDOR for purpose in PASSES for kind in KINDS)


def _fitting(purpose: str, known: dict[str, Block], m: int, n: int, k: int, shared_bytes: int) -> Block:
    """The largest block that gives every multiprocessor a tile and finds room there."""
    height, width = {"forward": (m, n), "dx": (m, k)}.get(purpose, (n, k))
    blocks = [b for b in known.values() if b.shared_bytes <= shared_bytes]
    fitting = [b for b in blocks if -(-height // b.m) * -(-width // b.n) >= MULTIPROCESSORS]
    return fitting[-1] if fitting else blocks[0]


@cache
def _shared_bytes(device: torch.device) -> int:
    """Of a multiprocessor for one program; AMD's blocks have as few stages as fit."""
    if device.type == "cpu" or torch.version.hip:
        return _PLENTY
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", _PLENTY))


@cache
def gpu_of(device: torch.device) -> str:
    """The name of a table; empty on a CPU."""
    return file_name(torch.cuda.get_device_name(device)) if device.type == "cuda" else ""


def file_name(gpu: str) -> str:
    """A GPU's name as the stem of a file: `NVIDIA H200` becomes `nvidia-h200`."""
    return "-".join("".join(c if c.isalnum() else " " for c in gpu.lower()).split())


def table(gpu: str) -> Table:
    """What was measured on a GPU; nothing where nothing was."""
    return _stored(gpu) if _Instead.entries is None else _Instead.entries


@contextlib.contextmanager
def measuring(entries: Table) -> Iterator[None]:
    """Inside the block these are all choices, on any device, for who measures them."""
    before, _Instead.entries = _Instead.entries, entries
    try:
        yield
    finally:
        _Instead.entries = before


class _Instead:
    """Of the whole process, as the backend is."""

    entries: Table | None = None


@cache
def _stored(gpu: str) -> Table:
    path = FOLDER / f"{gpu}.json"
    return read(path) if gpu and path.exists() else {}


def read(path: Path) -> Table:
    """A table that `write` wrote.

    Raises:
        ValueError: it holds something else.
    """
    try:
        entries = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a table of choices, got {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: expected a table of choices, got a {type(entries).__name__}")
    found: dict[Key, str] = {}
    for text, name in entries.items():
        key = _key(text)
        known = [] if key is None else [VENDOR, *blocks_of(*key[:2])]
        if key is None or name not in known:
            wanted = f"one of {known}" if key else "'<pass> <kind> <M>x<N>x<K>'"
            raise ValueError(f"{path}: expected {wanted}, got {text!r}: {name!r}")
        found[key] = name
    return found


def write(path: Path, entries: Table) -> None:
    """Put a table in a file that `read` understands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = {" ".join(key): name for key, name in sorted(entries.items())}
    path.write_text(json.dumps(lines, indent=1) + "\n")


def _key(text: str) -> Key | None:
    match text.split():
        case [purpose, kind, shape] if purpose in PASSES and kind in KINDS and _is_class(shape):
            return purpose, kind, shape
    return None


def _is_class(shape: str) -> bool:
    sizes = shape.split("x")
    return len(sizes) == 3 and all(size.isdecimal() and int(size).bit_count() == 1 for size in sizes)
