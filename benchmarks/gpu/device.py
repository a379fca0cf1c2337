"""The GPU that is measured, or a CPU that stands in for it in a dry run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import torch

import hat_kernels
from benchmarks.facts import commit
from hat_kernels.gated_linear.choice import file_name as file_name

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Device:
    """Where the tensors lie, and how large they are made.

    Attributes:
        kind: `"cuda"` (ROCm too), or `"cpu"` in a dry run: interpreted kernels, tiny tensors, a wall clock.
    """

    kind: str

    @property
    def dry(self) -> bool:
        return self.kind == "cpu"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of the main tensor, the largest first and far beyond any L2 cache."""
        return (2048, 1024) if self.dry else (256 * MEBIBYTE, 64 * MEBIBYTE, 16 * MEBIBYTE)

    @property
    def rotation(self) -> int:
        """Bytes through which repeated calls rotate, so that none finds its input in a cache."""
        return 1 if self.dry else 512 * MEBIBYTE

    @contextmanager
    def ours(self) -> Iterator[None]:
        """What a user of a GPU gets; in a dry run the kernels, where `auto` would take the reference."""
        with hat_kernels.backend("triton" if self.dry else "auto"):
            yield

    def synchronize(self) -> None:
        if not self.dry:
            torch.cuda.synchronize()

    def facts(self) -> dict[str, Any]:
        """What goes into every row, to measure the same again."""
        return {
            "gpu": "dry run on a CPU" if self.dry else torch.cuda.get_device_name(),
            "driver": "none" if self.dry else _driver(),
            "torch": torch.__version__,
            "triton": _version("triton"),
            "python": platform.python_version(),
            "commit": os.environ.get("HAT_COMMIT") or commit(),
            "date": datetime.now(timezone.utc).date().isoformat(),
        }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _driver() -> str:
    if torch.version.hip:
        return f"hip {torch.version.hip}"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.split("\n")[0].strip()
