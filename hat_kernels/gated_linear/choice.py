"""Which kernel computes a matmul: a block of our list, or the library of the vendor, as measured on each GPU.

`measured/<gpu>.json` has an entry for each pass, arithmetic and class of shapes that was measured: the name of the
fastest block, or "vendor". The class of a shape is M, N and K, each rounded up to a power of two. An example:

    "forward bf16 64x2048x1024": "wide"

says that on this GPU the forward pass of a layer from 784 to 2000 units, with batch size 64 in bfloat16, is fastest
with the block "wide". The vendor computes all shapes without an entry.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hat_kernels.gated_linear.blocks import MatmulBlock, blocks_of

FOLDER = Path(__file__).parent / "measured"
PASSES = ("forward", "dx", "dw", "update")
KINDS = ("fp32", "tf32", "bf16", "fp16")
VENDOR = "vendor"
_PLENTY = 1 << 20
MULTIPROCESSORS = 108  # of an A100; if a block makes fewer tiles, a smaller block is better

Key = tuple[str, str, str]
Choices = Mapping[Key, str]


def shape_class(m: int, n: int, k: int) -> str:
    """`"64x2048x1024"` for M = 64, N = 2000, K = 784."""
    return "x".join(str(1 << max(size - 1, 0).bit_length()) for size in (m, n, k))


def choose(
    purpose: str, kind: str, m: int, n: int, k: int, device: torch.device, *, forced: bool
) -> MatmulBlock | None:
    """The block of a pass for x [m, k] and a weight [n, k], or None for the matmul of the vendor.

    Args:
        purpose: the pass, one of `PASSES`.
        kind: the arithmetic, one of `KINDS`.
        m, n, k: the sizes of the layer, the same for each pass.
        device: the device of the tensors.
        forced: choose a block even if the vendor is faster or nothing was measured.
    """
    name = table(gpu_of(device)).get((purpose, kind, shape_class(m, n, k)), VENDOR)
    blocks = blocks_of(purpose, kind)
    if name in blocks:
        return blocks[name]
    return _fitting(purpose, blocks, m, n, k, _shared_bytes(device)) if forced else None


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether a block computes at least one pass of a layer, `x` [..., K] and `weight` [N, K].

    If the vendor computes all passes, the operator of this package only adds cost. While `torch.compile` traces, the
    answer is always True: sizes are not known then, and the operator asks again when it runs.
    """
    if torch.compiler.is_compiling():
        return True
    entries = table(gpu_of(x.device))
    if not entries:
        return False
    shape = shape_class(x.shape[:-1].numel(), *weight.shape)
    return any(entries.get((purpose, kind, shape), VENDOR) != VENDOR for purpose in PASSES for kind in KINDS)


def _fitting(purpose: str, blocks: dict[str, MatmulBlock], m: int, n: int, k: int, shared_bytes: int) -> MatmulBlock:
    """The largest block with a tile for each multiprocessor, among those that fit into shared memory."""
    height, width = {"forward": (m, n), "dx": (m, k)}.get(purpose, (n, k))
    small_enough = [b for b in blocks.values() if b.shared_bytes <= shared_bytes]
    fitting = [b for b in small_enough if -(-height // b.m) * -(-width // b.n) >= MULTIPROCESSORS]
    return fitting[-1] if fitting else small_enough[0]


@cache
def _shared_bytes(device: torch.device) -> int:
    """The shared memory that one program may use. On AMD every block fits, because the number of stages is reduced."""
    if device.type == "cpu" or torch.version.hip:
        return _PLENTY
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", _PLENTY))


@cache
def gpu_of(device: torch.device) -> str:
    """The name of the table of a GPU; empty on a CPU."""
    return file_name(torch.cuda.get_device_name(device)) if device.type == "cuda" else ""


def file_name(gpu: str) -> str:
    """A GPU's name as the stem of a file: `NVIDIA H200` becomes `nvidia-h200`."""
    return "-".join("".join(c if c.isalnum() else " " for c in gpu.lower()).split())


def table(gpu: str) -> Choices:
    """The measured choices of a GPU; empty if nothing was measured."""
    return _stored(gpu) if _Replaced.entries is None else _Replaced.entries


@contextlib.contextmanager
def measuring(entries: Choices) -> Iterator[None]:
    """Inside the block, `entries` are the choices of every device. A benchmark uses it to measure each block."""
    before, _Replaced.entries = _Replaced.entries, entries
    try:
        yield
    finally:
        _Replaced.entries = before


class _Replaced:
    """The entries of `measuring`, for the whole process, as with the backend."""

    entries: Choices | None = None


@cache
def _stored(gpu: str) -> Choices:
    path = FOLDER / f"{gpu}.json"
    return read(path) if gpu and path.exists() else {}


def read(path: Path) -> Choices:
    """Read a table that `write` wrote.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    try:
        entries = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a table of choices, got {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: expected a table of choices, got a {type(entries).__name__}")
    names: dict[Key, str] = {}
    for text, name in entries.items():
        key = _key(text)
        allowed = [] if key is None else [VENDOR, *blocks_of(*key[:2])]
        if key is None or name not in allowed:
            expected = f"one of {allowed}" if key else "'<pass> <kind> <M>x<N>x<K>'"
            raise ValueError(f"{path}: expected {expected}, got {text!r}: {name!r}")
        names[key] = name
    return names


def write(path: Path, entries: Choices) -> None:
    """Write a table to a file for `read`."""
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
